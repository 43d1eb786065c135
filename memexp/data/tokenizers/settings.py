"""From the settings of a tokenizer to the tokenizer: loaded, trained, or read again as it was saved."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from memexp.config.groups import Tokenizer as Settings
from memexp.data.tokenizers.bytes import Bytes
from memexp.data.tokenizers.lines import Lines
from memexp.data.tokenizers.published import Published
from memexp.data.tokenizers.sentence_piece import SentencePiece, train_sentence_piece
from memexp.data.tokenizers.tokenizer import LOSSY, Tokenizer
from memexp.data.tokenizers.words import Words
from memexp.errors import UserError

WITHOUT_MODEL = ("bytes", "words", "lines")
"""Kinds of tokenizer that are no SentencePiece model. They do not use the setting `vocabulary`."""


def load(model: bytes, *, name: str) -> Tokenizer:
    """The tokenizer from what its `save` returned.

    Args:
        name: what to call the model in messages.
    """
    lossless, model = not model.startswith(LOSSY), model.removeprefix(LOSSY)
    if model.startswith(Words.SAVED):
        return Words.load(model)
    if model.startswith(Lines.SAVED):
        return Lines.load(model, lossless=lossless)
    if model.startswith(Published.SAVED):
        return Published.load(model, name=name, lossless=lossless)
    return SentencePiece(model, name=name, lossless=lossless) if model else Bytes()


def read(settings: Settings) -> Tokenizer | None:
    """The tokenizer, if it needs no training: bytes or a model file; None if it must be trained.

    Raises:
        UserError: the model file cannot be read or changes text, or lossless=false is asked of a tokenizer without loss.
    """
    if settings.path is None:
        if not settings.lossless and settings.kind != "lines":
            raise UserError(
                f"data.tokenizer.lossless is false, but kind is {settings.kind} and no model is loaded, so nothing is "
                "lost; expected data.tokenizer.path, or data.tokenizer.kind=lines"
            )
        return Bytes() if settings.kind == "bytes" else None
    if settings.kind in WITHOUT_MODEL:
        raise UserError(
            f"data.tokenizer.path is {settings.path} but kind is {settings.kind}, which has no model; expected one of the two"
        )
    try:
        path = Path(settings.path).expanduser()
        if path.exists() and not path.is_file():  # a pipe gives its bytes once, and a device without end
            raise UserError(f"data.tokenizer.path {settings.path} is no regular file; expected a model file")
        model = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read data.tokenizer.path {settings.path}: {error.strerror}; expected a model file"
        ) from error
    kind = Published if path.suffix == ".json" else SentencePiece
    return kind(model, name=f"data.tokenizer.path ({settings.path})", lossless=settings.lossless)


def train(settings: Settings, texts: Iterable[str]) -> Tokenizer:
    """The words of the training texts, or a SentencePiece model of them; the same texts give the same tokenizer.

    Args:
        texts: parts of the training split; for words and lines, all of its documents.

    Raises:
        UserError: the texts are too few for that many entries, or need more.
    """
    if settings.kind == "words":
        return Words.train(texts)
    if settings.kind == "lines":
        return Lines.train(texts, lossless=settings.lossless)
    return train_sentence_piece(settings.kind, settings.vocabulary, texts)


def tag(settings: Settings) -> str:
    """The tokenizer's part of the prepared folder's name, such as bpe1024."""
    if settings.path is not None:
        return name_of_file(settings.path).replace(" ", "-")
    return settings.kind if settings.kind in WITHOUT_MODEL else f"{settings.kind}{settings.vocabulary}"


def name_of_file(path: str) -> str:
    """What a loaded tokenizer is called: by its file, or a checkpoint's by its folder or, in the hub's cache, by its model."""
    file = Path(path)
    if file.name != "tokenizer.json":
        return file.stem
    folder = file.parent
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").rpartition("--")[2]
    return folder.name or "tokenizer"


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A SHA-256, in hexadecimal, that tells tokenizers apart."""
    return hashlib.sha256(tokenizer.save() or b"bytes").hexdigest()

"""Text becomes tokens and comes back unchanged: bytes, words, or SentencePiece trained here or loaded.

A loaded model that changes text is used without what changes it, its normaliser; or as it is, with lossless=false, and then
what comes back is the text that bytes are counted in.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from memexp.config.groups import Tokenizer as Settings
from memexp.errors import UserError

SPACE_MARK = "\u2581"
"""What SentencePiece writes for a space. In a text that holds this very character it is encoded as its three bytes."""

LONGEST_LINE = 8192
"""Characters. Text is encoded line by line, so that the tokens of a line do not depend on what stands around it and cost
is linear; longer lines are cut."""

LINES = 4096
"""Lines encoded at a time, so that memory is bounded."""

THREADS = 2
"""Fixed, for unigram training depends on it."""

PROBE = (
    " a  b\t\tc \n\n   x\r\ny\v\f\x00\x01\x7f\ufeff<unk><s></s><0x41>\n\u0130\ufb01\u00e9e\u0301\uff21\u00a0\u2003\u200b"
    "\u2581\u2581 \u4e2d\u6587\U0001f600\ue000\ufffd\U0010ffff \n "
)
"""Text that a tokenizer which normalises, trims or lacks bytes does not give back."""


WITHOUT_MODEL = ("bytes", "words", "lines")
"""Kinds of tokenizer that are no SentencePiece model; the setting `vocabulary` is not theirs."""

LOSSY = b"lossy "
"""Begins what `save` gives of a tokenizer that may change text. No SentencePiece model begins so, for it is no protocol buffer."""


class Tokenizer(Protocol):
    """Where it is lossless, `decode(encode(text)) == text` for every text that it takes, and the pieces joined are its UTF-8."""

    vocabulary: int
    lossless: bool
    by_line: bool
    """Whether the tokens of a line do not depend on other lines, so that a text may be cut behind the end of one."""
    slow: bool
    """Whether encoding takes longer than handing text to another process and its tokens back."""

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of whole characters; bytes that are no UTF-8, as at a cut inside a character, become U+FFFD."""
        ...

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each token."""
        ...

    def save(self) -> bytes:
        """What `load` makes the same tokenizer from; empty for bytes."""
        ...


class Bytes:
    """A token is a byte of the text's UTF-8."""

    vocabulary = 256
    lossless, by_line, slow = True, True, False

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        return [bytes((id,)) for id in ids]

    def save(self) -> bytes:
        return b""


class Words:
    """A token is a word; words are separated by single spaces.

    The pieces of a text, each a space and a word, are its UTF-8 with one space before it. Only texts of known words can
    be encoded.
    """

    lossless, by_line, slow = True, False, False

    SAVED = b"words "
    """Begins what `save` gives."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted(words)
        self._ids = {word: id for id, word in enumerate(self._words)}
        self.vocabulary = len(self._words)
        self._dtype = np.uint16 if self.vocabulary <= 1 << 16 else np.uint32

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it.

        Raises:
            UserError: a word is not known.
        """
        words = _words(text.decode("utf-8") if isinstance(text, bytes) else text)
        try:
            return np.fromiter(map(self._ids.__getitem__, words), dtype=self._dtype, count=len(words))
        except KeyError as error:
            raise UserError(
                f"the word {error.args[0]!r} is none of the {self.vocabulary:,} of the training split; expected known words "
                "with single spaces between them. Likely cause: too few training documents to show every word"
            ) from error

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self._words[id] for id in ids)

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        return [f" {self._words[id]}".encode() for id in ids]

    def save(self) -> bytes:
        return self.SAVED + " ".join(self._words).encode()

    @classmethod
    def load(cls, model: bytes) -> "Words":
        """The tokenizer that `save` gave `model`."""
        return cls(_words(model.removeprefix(cls.SAVED).decode("utf-8")))


def _words(text: str) -> list[str]:
    return text.split(" ") if text else []


class Lines:
    """A token is a word between white space, or the end of a line; the most frequent words come first.

    So are WikiText and the vocabularies of Transformer-XL. The pieces of a text are a space and a word, and a space and
    a line end: WikiText's own form, which comes back as it was. A word that is not known becomes `<unk>` where that is
    one of the words.
    """

    by_line, slow = True, False

    SAVED = b"lines "
    """Begins what `save` gives."""

    END, UNKNOWN = "\n", "<unk>"

    def __init__(self, words: Iterable[str], *, lossless: bool = True) -> None:
        """
        Args:
            words: in the order of their ids, of which the line end's is the first.
            lossless: whether a text that does not come back as it was is to be refused.
        """
        self.lossless = lossless
        self._words = list(words)
        self._ids = {word: id for id, word in enumerate(self._words)}
        self.vocabulary = len(self._words)
        self._dtype = np.uint16 if self.vocabulary <= 1 << 16 else np.uint32

    @classmethod
    def train(cls, texts: Iterable[str], *, lossless: bool) -> "Lines":
        """The words of the texts, the most frequent first, equals in the order of their letters."""
        counts = Counter(word for text in texts for word in cls._split(text))
        del counts[cls.END]
        return cls([cls.END, *sorted(counts, key=lambda word: (-counts[word], word))], lossless=lossless)

    @classmethod
    def _split(cls, text: str) -> Iterator[str]:
        for line in io.StringIO(text, newline="\n"):
            yield from line.split()
            if line.endswith("\n"):
                yield cls.END

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it.

        Raises:
            UserError: a word is not known, and there is no `<unk>`.
        """
        words = list(self._split(text.decode("utf-8") if isinstance(text, bytes) else text))
        unknown = self._ids.get(self.UNKNOWN)
        ids = [self._ids.get(word, unknown) for word in words]
        if None in ids:
            raise UserError(
                f"the word {words[ids.index(None)]!r} is none of the {self.vocabulary:,} of the training split, and "
                f"{self.UNKNOWN} is none either; expected known words. Likely cause: too few training documents to show "
                "every word"
            )
        return np.array(ids, dtype=self._dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(f" {self._words[id]}" for id in ids)

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        return [f" {self._words[id]}".encode() for id in ids]

    def save(self) -> bytes:
        return (b"" if self.lossless else LOSSY) + self.SAVED + " ".join(self._words).encode()

    @classmethod
    def load(cls, model: bytes, *, lossless: bool) -> "Lines":
        """The tokenizer of what `save` gave, without `LOSSY`."""
        return cls(model.removeprefix(cls.SAVED).decode().split(" "), lossless=lossless)


class SentencePiece:
    """A SentencePiece model, without its normaliser where that changes text; or, if it is not lossless, with it."""

    by_line, slow = True, True

    def __init__(self, model: bytes, *, name: str, lossless: bool = True) -> None:
        """
        Args:
            model: a serialised model.
            name: what to call it in messages.
            lossless: whether no text may be changed.

        Raises:
            UserError: it is no model, or changes text even without its normaliser.
        """
        self.lossless, self._name = lossless, name
        self._load(model)
        if not lossless or self._keeps_text():
            return
        self._load(_without_normaliser(model))
        if self._mark is not None and not self._keeps_text():
            raise UserError(
                f"{name} changes text even without its normaliser; expected a model that gives back what it was given, or "
                "data.tokenizer.lossless=false"
            )

    def _load(self, model: bytes) -> None:
        import sentencepiece

        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(
                f"{self._name} is no SentencePiece model; expected the .model file that its trainer writes"
            ) from error
        self._model = model
        self.vocabulary = int(self._processor.vocab_size())
        self._dtype = np.uint16 if self.vocabulary <= 1 << 16 else np.uint32
        byte_ids = {self._byte(id): id for id in range(self.vocabulary) if self._processor.is_byte(id)}
        self._mark: np.ndarray | None = None
        if self.lossless and len(byte_ids) == 256:
            self._mark = np.array([byte_ids[value] for value in SPACE_MARK.encode()], dtype=self._dtype)
        self._pieces = [self._piece(id) for id in range(self.vocabulary)]

    def _keeps_text(self) -> bool:
        return self._mark is not None and self.decode(self.encode(PROBE)) == PROBE

    def _byte(self, id: int) -> int:
        return int(self._processor.id_to_piece(id)[3:5], 16)

    def _piece(self, id: int) -> bytes:
        if self._processor.is_byte(id):
            return bytes((self._byte(id),))
        if self._processor.is_unknown(id):
            return b"" if self.lossless else str(self._processor.decode([id])).encode()
        if self._processor.is_control(id):
            return b""
        return str(self._processor.id_to_piece(id)).replace(SPACE_MARK, " ").encode()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it.

        Raises:
            UserError: it is lossless, and has neither a piece for a character nor byte pieces.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        encoded = []
        for index, part in enumerate([text] if self._mark is None else text.split(SPACE_MARK)):
            if index and self._mark is not None:
                encoded.append(self._mark)
            lines = _lines(part)
            while batch := list(islice(lines, LINES)):
                ids = chain.from_iterable(self._processor.encode(batch, num_threads=1))
                encoded.append(np.fromiter(ids, dtype=self._dtype))
        tokens = np.concatenate(encoded) if encoded else np.empty(0, dtype=self._dtype)
        if self.lossless and self._mark is None and (unknown := self._unknown(text, tokens)):
            raise UserError(
                f"{self._name} has no piece for {unknown!r} and no byte pieces to write it with; expected a model "
                "with byte fallback, or data.tokenizer.lossless=false, with which bytes are counted in what comes back"
            )
        return tokens

    def _unknown(self, text: str, tokens: np.ndarray) -> str:
        """The first part of a text that the model has no piece for; empty where it has all."""
        unknown = self._processor.unk_id()
        for line in _lines(text) if unknown in tokens else ():
            if unknown in (ids := self._processor.encode(line)):
                return str(self._processor.encode(line, out_type=str)[ids.index(unknown)])
        return SPACE_MARK if SPACE_MARK in text else ""

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return list(map(self._pieces.__getitem__, ids))

    def save(self) -> bytes:
        return (b"" if self.lossless else LOSSY) + self._model


def _without_normaliser(model: bytes) -> bytes:
    """The same pieces and scores, for text as it stands: T5's model folds and trims, LLaMA's puts a space in front."""
    from sentencepiece import sentencepiece_model_pb2

    content = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made when imported
    content.normalizer_spec.name = "identity"
    content.normalizer_spec.precompiled_charsmap = b""
    content.normalizer_spec.add_dummy_prefix = False
    content.normalizer_spec.remove_extra_whitespaces = False
    changed: bytes = content.SerializeToString(deterministic=True)
    return changed


def chunks(text: str, size: int) -> Iterator[str]:
    """`text` in parts of at most `size` characters, cut after a line end where there is one."""
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end


def _lines(text: str) -> Iterator[str]:
    """Each line with its end, in parts where it is too long."""
    for line in io.StringIO(text, newline="\n"):
        if len(line) <= LONGEST_LINE:
            yield line
        else:
            yield from chunks(line, LONGEST_LINE)


def load(model: bytes, *, name: str) -> Tokenizer:
    """The tokenizer that `save` gave `model`."""
    lossless, model = not model.startswith(LOSSY), model.removeprefix(LOSSY)
    if model.startswith(Words.SAVED):
        return Words.load(model)
    if model.startswith(Lines.SAVED):
        return Lines.load(model, lossless=lossless)
    return SentencePiece(model, name=name, lossless=lossless) if model else Bytes()


def read(settings: Settings) -> Tokenizer | None:
    """The tokenizer that needs no training: bytes or a model file; None if one is to be trained.

    Raises:
        UserError: the model file cannot be read or changes text, or a tokenizer is to be lossy that cannot be.
    """
    if settings.path is None:
        if not settings.lossless and settings.kind != "lines":
            raise UserError(
                f"data.tokenizer.lossless is false, but kind is {settings.kind} and no model is loaded, so that nothing is "
                "lost; expected data.tokenizer.path, or data.tokenizer.kind=lines"
            )
        return Bytes() if settings.kind == "bytes" else None
    if settings.kind in WITHOUT_MODEL:
        raise UserError(
            f"data.tokenizer.path is {settings.path} but kind is {settings.kind}, which has no model; expected one of the two"
        )
    try:
        model = Path(settings.path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read data.tokenizer.path {settings.path}: {error.strerror}; expected a model file"
        ) from error
    return SentencePiece(model, name=f"data.tokenizer.path ({settings.path})", lossless=settings.lossless)


def train(settings: Settings, texts: Iterable[str]) -> Tokenizer:
    """The words of the training texts, or a SentencePiece model of them; the same texts give the same tokenizer.

    A model is trained on lines without their ends, so a line end is always a token of its own: its byte.

    Args:
        texts: parts of the training split; for words and lines, all of its documents.

    Raises:
        UserError: the texts do not give that many entries, or need more.
    """
    if settings.kind == "words":
        return Words({word for text in texts for word in _words(text) if word})
    if settings.kind == "lines":
        return Lines.train(texts, lossless=settings.lossless)

    import sentencepiece

    model = io.BytesIO()
    lines = (line.removesuffix("\n") for text in texts for line in _lines(text))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=settings.kind,
            vocab_size=settings.vocabulary,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=LONGEST_LINE * 4,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2].partition(" Increase ")[0]
        raise UserError(
            f"data.tokenizer.vocabulary is {settings.vocabulary}, which the training split does not allow: {reason} "
            "Expected room for 256 bytes and its characters, and text enough to fill the rest; or data.tokenizer.kind=bytes"
        ) from error
    return SentencePiece(model.getvalue(), name="the trained tokenizer")


def tag(settings: Settings) -> str:
    """The tokenizer's part of the prepared folder's name, such as bpe1024."""
    if settings.path is not None:
        return Path(settings.path).stem.replace(" ", "-")
    return settings.kind if settings.kind in WITHOUT_MODEL else f"{settings.kind}{settings.vocabulary}"


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A SHA-256, in hexadecimal, that tells tokenizers apart."""
    return hashlib.sha256(tokenizer.save() or b"bytes").hexdigest()

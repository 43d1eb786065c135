"""Makes a prepared corpus: reads the documents, splits them, trains the tokenizer and encodes."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from memexp import __version__
from memexp.config import Data
from memexp.data import tokenizers
from memexp.data.sources import Source
from memexp.data.splits import HELD_OUT, SPLITS, assign
from memexp.data.tokenizers import Bytes, Tokenizer
from memexp.errors import UserError
from memexp.files import checksum, fingerprint, write_atomically, write_json

TRAINING_TEXT = 10_000_000
"""Characters of the training split that a tokenizer is trained on, taken evenly from all of it."""


@dataclass
class Entry:
    """A document as it is listed in documents.json, in the order of the token file."""

    id: str
    group: str
    bytes: int
    split: str = ""
    tokens: int = 0
    answers: int | None = None
    """Its scored tokens, where not all are."""
    slices: dict[str, Any] | None = None
    label: str | None = None

    def row(self) -> dict[str, Any]:
        """Its row of documents.json; what only documents with answers have is left out of others."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def build(config: Data, *, source: Source, settings: dict[str, Any], folder: Path, console: Console) -> None:
    """Write a corpus into `folder`, which exists and is empty.

    Args:
        settings: what determines the corpus, for the manifest.
        console: where progress is shown.

    Raises:
        UserError: a document cannot be used, there are too few, or the disk is full.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console) as progress:
        entries, left_out = _list(source, config, progress)
        if unassigned := [entry for entry in entries if not entry.split]:
            splits = assign(unassigned, valid=config.valid_documents, test=config.test_documents)
            for entry in unassigned:
                entry.split = splits[entry.group]
        texts = _training_texts(source, entries, progress)
        tokenizer = tokenizers.read(config.tokenizer) or tokenizers.train(
            config.tokenizer, texts if config.tokenizer.kind == "words" else _sample(texts, entries)
        )
        _encode(source, entries, tokenizer, config, progress=progress, folder=folder)
    write_atomically(folder / "tokenizer.model", lambda file: file.write(tokenizer.save()) and None)
    write_json(folder / "documents.json", [entry.row() for entry in entries])
    names = ["tokens.bin", "tokenizer.model", "documents.json"]
    names += ["answers.bin"] if (folder / "answers.bin").exists() else []
    manifest = {
        "name": config.name,
        "settings": settings,
        "source": source.describe(),
        "tokenizer": {
            **asdict(config.tokenizer),
            "vocabulary": tokenizer.vocabulary,
            "hash": tokenizers.tokenizer_hash(tokenizer),
        },
        "splits": {split: _count([entry for entry in entries if entry.split == split]) for split in SPLITS},
        "left_out": _count(left_out),
        "dtype": tokenizer.encode("").dtype.name,
        "seconds": round(time.monotonic() - started, 1),
        "memexp": __version__,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": checksum(folder / name)} for name in names},
    }
    write_json(folder / "manifest.json", {**manifest, "checksum": fingerprint(manifest)})


def _count(entries: list[Entry]) -> dict[str, int]:
    return {
        "documents": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "tokens": sum(entry.tokens for entry in entries),
    }


def _list(source: Source, config: Data, progress: Progress) -> tuple[list[Entry], list[Entry]]:
    """The documents that are long enough, and those that are not."""
    task = progress.add_task("Reading", total=None)
    entries: list[Entry] = []
    left_out: list[Entry] = []
    for document in source:
        try:
            size = len(document.text.encode() if isinstance(document.text, str) else document.text)
        except UnicodeEncodeError as error:
            raise UserError(
                f"document {document.id} holds half of a surrogate pair at character {error.start}; expected Unicode "
                "text. Likely cause: it was cut inside an escaped character"
            ) from error
        if not size and not config.min_document:
            raise UserError(
                f"document {document.id} is empty; expected text. Take it away, or leave out short documents with "
                "data.min_document=1"
            )
        answers = None if document.answers is None else len(document.answers)
        if answers is not None and config.tokenizer.kind != "words":
            raise UserError(
                f"data.tokenizer.kind is {config.tokenizer.kind}, but document {document.id} has answers, which are "
                "counted in words; expected data.tokenizer.kind=words"
            )
        slices = document.slices if document.split in HELD_OUT else None
        entry = Entry(
            document.id, document.group, size, document.split, answers=answers, slices=slices, label=document.label
        )
        (entries if size >= config.min_document else left_out).append(entry)
        progress.advance(task, size)
    if not entries:
        raise UserError(
            f"none of {len(left_out)} documents has {config.min_document} bytes; expected some as long as that. "
            "Set data.min_document lower"
        )
    progress.update(task, total=progress.tasks[task].completed)
    return entries, left_out


def _training_texts(source: Source, entries: list[Entry], progress: Progress) -> Iterator[str]:
    """The texts of the training documents."""
    sizes = {entry.id: entry.bytes for entry in entries if entry.split == "train"}
    task = progress.add_task("Training the tokenizer", total=sum(sizes.values()))
    for document in source:
        if document.id in sizes:
            yield _as_text(document.id, document.text)
            progress.advance(task, sizes[document.id])


def _sample(texts: Iterator[str], entries: list[Entry]) -> Iterator[str]:
    """Every n-th part of the training texts, the same whenever they are the same."""
    share = min(1.0, TRAINING_TEXT / sum(entry.bytes for entry in entries if entry.split == "train"))
    seen = taken = 0
    for text in texts:
        for part in tokenizers.chunks(text, tokenizers.LONGEST_LINE):
            seen += len(part)
            if taken < seen * share:
                taken += len(part)
                yield part


def _as_text(id: str, text: str | bytes) -> str:
    try:
        return text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"document {id} is not UTF-8 at offset {error.start}; expected text, or data.tokenizer.kind=bytes"
        ) from error


def _encode(
    source: Source, entries: list[Entry], tokenizer: Tokenizer, config: Data, *, progress: Progress, folder: Path
) -> None:
    """Write the tokens of all documents, one after another, and enter how many each has; where only some are scored,
    which, in a file beside."""
    path, masks = folder / "tokens.bin", list[bytes]()
    masked = any(entry.answers is not None for entry in entries)
    kept = {entry.id: entry for entry in entries}
    task = progress.add_task("Encoding", total=sum(entry.bytes for entry in entries))
    loaded = config.tokenizer.path is not None
    try:
        with path.open("xb") as file:
            for document in source:
                entry = kept.get(document.id)
                if entry is None:
                    continue
                text = document.text if isinstance(tokenizer, Bytes) else _as_text(document.id, document.text)
                tokens = _encoded(document.id, text, tokenizer)
                # The model that is trained here keeps text by construction; of any other, a probe is no proof.
                if loaded and tokenizer.decode(tokens) != text:
                    raise UserError(
                        f"data.tokenizer.path ({config.tokenizer.path}) changes document {entry.id}; expected a model that "
                        "gives back what it was given"
                    )
                file.write(tokens.tobytes())
                entry.tokens = len(tokens)
                if masked:
                    masks.append(_mask(document.answers, len(tokens)).tobytes())
                progress.advance(task, entry.bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; expected {_space(entries, tokenizer)} of free space at most. "
            "Likely cause: the disk is full or a quota is used up"
        ) from error
    if masked:
        write_atomically(folder / "answers.bin", lambda file: file.writelines(masks))


def _encoded(id: str, text: str | bytes, tokenizer: Tokenizer) -> np.ndarray:
    try:
        return tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"document {id}: {error}") from error


def _mask(answers: Sequence[int] | None, tokens: int) -> np.ndarray:
    """Which of a document's tokens are scored: bool, one a token."""
    mask = np.full(tokens, answers is None)
    mask[list(answers or ())] = True
    return mask


def _space(entries: list[Entry], tokenizer: Tokenizer) -> str:
    """The most that the token file can take: a token for every byte."""
    most = sum(entry.bytes for entry in entries) * np.dtype(tokenizer.encode("").dtype).itemsize
    return f"{most / 1e6:,.0f} MB"

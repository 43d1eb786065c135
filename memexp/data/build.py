"""Makes a prepared corpus: reads the documents, splits them, trains the tokenizer and encodes."""

import os
import time
from collections.abc import Iterator
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
from memexp.data.splits import SPLITS, assign
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
        splits = assign(entries, valid=config.valid_documents, test=config.test_documents)
        for entry in entries:
            entry.split = splits[entry.group]
        tokenizer = tokenizers.read(config.tokenizer) or tokenizers.train(
            config.tokenizer, _training_text(source, entries, progress)
        )
        _encode(source, entries, tokenizer, config, progress=progress, path=folder / "tokens.bin")
    write_atomically(folder / "tokenizer.model", lambda file: file.write(tokenizer.save()) and None)
    write_json(folder / "documents.json", [asdict(entry) for entry in entries])
    names = ("tokens.bin", "tokenizer.model", "documents.json")
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
        (entries if size >= config.min_document else left_out).append(Entry(document.id, document.group, size))
        progress.advance(task, size)
    if not entries:
        raise UserError(
            f"none of {len(left_out)} documents has {config.min_document} bytes; expected some as long as that. "
            "Set data.min_document lower"
        )
    progress.update(task, total=progress.tasks[task].completed)
    return entries, left_out


def _training_text(source: Source, entries: list[Entry], progress: Progress) -> Iterator[str]:
    """Every n-th part of the training documents, the same whenever they are the same."""
    sizes = {entry.id: entry.bytes for entry in entries if entry.split == "train"}
    share = min(1.0, TRAINING_TEXT / sum(sizes.values()))
    task = progress.add_task("Training the tokenizer", total=sum(sizes.values()))
    seen = taken = 0
    for document in source:
        if document.id not in sizes:
            continue
        for part in tokenizers.chunks(_as_text(document.id, document.text), tokenizers.LONGEST_LINE):
            seen += len(part)
            if taken < seen * share:
                taken += len(part)
                yield part
        progress.advance(task, sizes[document.id])


def _as_text(id: str, text: str | bytes) -> str:
    try:
        return text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"document {id} is not UTF-8 at offset {error.start}; expected text, or data.tokenizer.kind=bytes"
        ) from error


def _encode(
    source: Source, entries: list[Entry], tokenizer: Tokenizer, config: Data, *, progress: Progress, path: Path
) -> None:
    """Write the tokens of all documents, one after another, and enter how many each has."""
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
                tokens = tokenizer.encode(text)
                # The model that is trained here keeps text by construction; of any other, a probe is no proof.
                if loaded and tokenizer.decode(tokens) != text:
                    raise UserError(
                        f"data.tokenizer.path ({config.tokenizer.path}) changes document {entry.id}; expected a model that "
                        "gives back what it was given"
                    )
                file.write(tokens.tobytes())
                entry.tokens = len(tokens)
                progress.advance(task, entry.bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; expected {_space(entries, tokenizer)} of free space at most. "
            "Likely cause: the disk is full or a quota is used up"
        ) from error


def _space(entries: list[Entry], tokenizer: Tokenizer) -> str:
    """The most that the token file can take: a token for every byte."""
    most = sum(entry.bytes for entry in entries) * np.dtype(tokenizer.encode("").dtype).itemsize
    return f"{most / 1e6:,.0f} MB"

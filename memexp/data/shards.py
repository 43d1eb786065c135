"""Documents on disk as they were read, so that a source is read only once and a stopped build can continue.

In the folder `work` of a corpus that is being built:

    begun               what is being built; if it says something else, all of this is useless
    00000.text          documents one after another, as bytes
    00000.json          their rows and the text's checksum; written last, since a shard counts only with it
    notes               what the source noted of what it left out
    read                the source has no more documents
    00000.encoded.json  how many tokens each document has, and the checksum of the shard's tokens
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

from memexp.config.groups import Data
from memexp.data.sources import Document, Source
from memexp.data.sources.notes import notes_of
from memexp.data.splits import HELD_OUT, cut
from memexp.errors import UserError
from memexp.files import checksum, read_json, unsealed, write_json, write_sealed
from memexp.machine import why_full
from memexp.terminal import escape, same_command

WORK = "work"
"""Folder of intermediate files, inside the folder of a corpus that is being built."""

SHARD = 32 << 20
"""A shard ends after the document with which it reaches this many bytes."""

BEGUN, READ, NOTES = "begun", "read", "notes"

LAYOUT = 2
"""Raised when the content of rows changes, so that what an older version has begun is not used."""


@dataclass
class Entry:
    """A document without its text."""

    id: str
    group: str
    bytes: int
    split: str = ""
    tokens: int = 0
    answers: Sequence[int] | None = None
    """Which of its words are scored, and once the document is encoded, which of its tokens; None: all."""
    slices: dict[str, Any] | None = None
    label: str | None = None
    digest: str = ""
    """Of its text."""
    start: int | None = None
    """Of a part of a document that was cut: its first byte in that document."""
    skipped: int = 0
    """Bytes before it in the shard that are of no document, because they are between two parts."""

    def row(self) -> dict[str, Any]:
        """Its row of documents.json. Keys that only documents with answers, or parts, have are left out of other rows."""
        answers = None if self.answers is None else len(self.answers)
        kept = asdict(self) | {"answers": answers, "digest": None, "skipped": None}
        return {name: value for name, value in kept.items() if value is not None}


@dataclass
class Shard:
    """Some of the documents, in the order of the source."""

    path: Path
    """Of its text."""
    entries: list[Entry] = field(default_factory=list)
    left_out: list[int] = field(default_factory=lambda: [0, 0])
    """Documents that are too short, and their bytes."""

    @property
    def index(self) -> Path:
        """The file with its rows, which exists only if the shard is complete."""
        return self.path.with_suffix(".json")

    @property
    def encoded(self) -> Path:
        """The file that exists only if its tokens are written."""
        return self.path.with_suffix(".encoded.json")

    def texts(self) -> Iterator[tuple[Entry, bytes]]:
        """Its documents with their text."""
        with self.path.open("rb") as file:
            for entry in self.entries:
                file.seek(entry.skipped, os.SEEK_CUR)
                yield entry, file.read(entry.bytes)

    def cut(self, share: float, *, cuts: Callable[[Entry], bool]) -> None:
        """Replace documents by their parts, each a document of its own.

        Args:
            share: of a document, for each of validation and test.
            cuts: whether a document is cut; others are for training.
        """
        entries: list[Entry] = []
        begin = 0
        with self.path.open("rb") as file:
            for entry in self.entries:
                if cuts(entry):
                    entries += _parts(entry, share, file, begin)
                else:
                    entries.append(replace(entry, split="train"))
                begin += entry.bytes
        self.entries = entries


def _parts(entry: Entry, share: float, file: IO[bytes], begin: int) -> Iterator[Entry]:
    """The parts of a document, whose first byte in the file is `begin`."""

    def read(start: int, end: int) -> bytes:
        file.seek(begin + start)
        return file.read(min(end, entry.bytes) - start)

    parts, end = cut(entry.bytes, share, read), 0
    splits = [part.split for part in parts]
    for place, part in enumerate(parts):
        group = f"{entry.id}:{part.split}"
        id = f"{group}:{place + 1 - splits.index(part.split)}" if splits.count(part.split) > 1 else group
        yield Entry(id, group, part.end - part.start, part.split, start=part.start, skipped=part.start - end)
        end = part.end


def begin(work: Path, content: str) -> None:
    """Make `work` the folder of a build. What a different build has left there is removed.

    Args:
        content: says what is built.
    """
    mark = work / BEGUN
    if _said(mark) != content:
        shutil.rmtree(work, ignore_errors=True)
        write_json(mark, content)


def read(source: Source, config: Data, work: Path, advance: Callable[[int], None]) -> list[Shard]:
    """All documents of a source. Complete shards of an earlier, stopped build are kept.

    Args:
        advance: called with the size of each document in bytes.

    Raises:
        UserError: a document cannot be used, or the disk is full.
    """
    shards = list(_whole(work))
    if _said(work / READ) == len(shards) and record(work / NOTES) is not None:
        advance(sum(entry.bytes for shard in shards for entry in shard.entries))
        return shards
    documents = _documents(source)
    for shard in shards:
        # A source can only be read from its start. Reading these documents again also shows whether it has changed.
        again = islice(documents, len(shard.entries) + shard.left_out[0])
        entries = [_checked(document, config)[0] for document in again]
        kept = [(entry.id, entry.bytes) for entry in entries if entry.bytes >= config.min_document]
        if kept != [(entry.id, entry.bytes) for entry in shard.entries]:
            content = _said(work / BEGUN)
            shutil.rmtree(work)
            begin(work, content)
            return read(source, config, work, advance)
        advance(sum(entry.bytes for entry in entries))
    while (read_now := _write(documents, Shard(work / f"{len(shards):05}.text"), config, advance)) is not None:
        shards.append(read_now)
    write_sealed(work / NOTES, notes_of(source))
    write_json(work / READ, len(shards))
    return shards


def noted(work: Path) -> dict[str, Any]:
    """What the source has noted, after all of it was read."""
    return dict(record(work / NOTES) or {})


def _documents(source: Source) -> Iterator[Document]:
    """The documents of a source.

    Raises:
        UserError: also where the system refuses and the source has no line of its own for it.
    """
    documents, last = iter(source), "the first"
    while True:
        try:
            document = next(documents)
        except StopIteration:
            return
        except OSError as error:
            file = f" in {escape(error.filename)}" if error.filename is not None else ""
            raise UserError(
                f"cannot read documents{file}: {error.strerror or error}; expected a source that can be read. It was after the "
                f"document {escape(last)}"
            ) from error
        last = document.id
        yield document


def record(path: Path) -> Any:
    """What was kept of a complete part of the work; None if it is not complete, or the record is damaged."""
    content = _said(path)
    with suppress(UserError):
        return unsealed(content, path) if isinstance(content, dict) and "checksum" in content else None
    return None


def _said(path: Path) -> Any:
    with suppress(UserError):
        return read_json(path)
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the system into one line that names `path`.

    Raises:
        UserError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; expected free space for text and tokens; {same_command()} continues "
            f"from the last complete part{why_full(error, path)}"
        ) from error


def _whole(work: Path) -> Iterator[Shard]:
    """The complete shards, up to the first that is missing or damaged."""
    for number in count():
        shard = Shard(work / f"{number:05}.text")
        if (content := record(shard.index)) is None:
            return
        shard.entries = [Entry(**row) for row in content["documents"]]
        shard.left_out = content["left_out"]
        if not shard.path.exists() or checksum(shard.path) != content["sha256"]:
            return
        yield shard


def _write(documents: Iterator[Document], shard: Shard, config: Data, advance: Callable[[int], None]) -> Shard | None:
    """Fill a shard with the next documents; None if there are no more."""
    digest = hashlib.sha256()
    shard.encoded.unlink(missing_ok=True)
    with writing(shard.path):
        file = shard.path.open("wb")
    with file:
        for document in documents:
            entry, data = _checked(document, config)
            if entry.bytes < config.min_document:
                shard.left_out = [shard.left_out[0] + 1, shard.left_out[1] + entry.bytes]
            else:
                with writing(shard.path):
                    file.write(data)
                digest.update(data)
                shard.entries.append(entry)
            advance(entry.bytes)
            if file.tell() >= SHARD:
                break
        with writing(shard.path):
            file.flush()
            os.fsync(file.fileno())
    if not shard.entries and not shard.left_out[0]:
        shard.path.unlink()
        return None
    rows = [{**asdict(entry), "answers": entry.answers and list(entry.answers)} for entry in shard.entries]
    write_sealed(shard.index, {"documents": rows, "left_out": shard.left_out, "sha256": digest.hexdigest()})
    return shard


def _checked(document: Document, config: Data) -> tuple[Entry, bytes]:
    """What is kept of a document, after it was checked, and its text as UTF-8."""
    try:
        data = document.text.encode() if isinstance(document.text, str) else document.text
    except UnicodeEncodeError as error:
        raise UserError(
            f"document {document.id} holds half of a surrogate pair at character {error.start}; expected Unicode "
            "text. Likely cause: it was cut inside an escaped character"
        ) from error
    for what, name in (("name", document.id), ("group", document.group), ("label", document.label or "")):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the {what} of document {document.id!a} is {name!a}; expected Unicode text. Likely cause: a file's name in "
                "another encoding, or one that was cut inside an escaped character"
            ) from error
    if not data and not config.min_document:
        raise UserError(
            f"document {document.id} is empty; expected text. Take it away, or leave out short documents with "
            "data.min_document=1"
        )
    if document.answers is not None and not (config.tokenizer.lossless and config.tokenizer.kind != "lines"):
        raise UserError(
            f"data.tokenizer.kind is {config.tokenizer.kind} and lossless {str(config.tokenizer.lossless).lower()}, but document "
            f"{document.id} has answers; expected a tokenizer that gives text back unchanged, such as data.tokenizer.kind=words, so that "
            "they can be found in its tokens"
        )
    slices = document.slices if document.split in HELD_OUT else None
    entry = Entry(
        document.id,
        document.group,
        len(data),
        document.split,
        answers=document.answers,
        slices=slices,
        label=document.label,
        digest=hashlib.blake2b(data, digest_size=16).hexdigest(),
    )
    return entry, data

"""Builds a prepared corpus: reads documents into shards, splits them, trains the tokenizer and encodes."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from memexp import __version__
from memexp.config.groups import Data
from memexp.data import shards, splits, tokenizers
from memexp.data.encoding import Encoder, as_text
from memexp.data.manifest import given_by
from memexp.data.shards import WORK, Entry, Shard, writing
from memexp.data.sources import Source
from memexp.data.sources.notes import said
from memexp.data.splits import SPLITS
from memexp.data.tokenizers import Tokenizer
from memexp.errors import UserError
from memexp.files import checksum, fingerprint, write_atomically, write_json, write_sealed
from memexp.terminal import warn

TRAINING_TEXT = 10_000_000
"""A tokenizer is trained on this many bytes, spread evenly over the training split; on fewer if its text is not ASCII."""

DIGEST = 32
"""Bytes of the checksum with which the trained tokenizer begins while the corpus is being built."""


def build(config: Data, *, source: Source, settings: dict[str, Any], folder: Path, console: Console) -> None:
    """Write a corpus into `folder`, or continue what an earlier call with the same settings has left there.

    Args:
        settings: what determines the corpus; they are written to the manifest.
        folder: afterwards it also holds the folder `WORK`.
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
    described = source.describe()
    shards.begin(folder / WORK, fingerprint([shards.LAYOUT, settings, described]))
    with Progress(*columns, console=console) as progress:
        parts = _read(source, config, folder / WORK, progress)
        notes = shards.noted(folder / WORK)
        if notes:
            described = described | {"notes": notes}
        splitting = _split(parts, config, _causes(parts, config, notes))
        entries = [entry for part in parts for entry in part.entries]
        tokenizer = _tokenizer(parts, config, folder / WORK, progress)
        _encode(parts, tokenizer, folder=folder, progress=progress)
    if config.tokenizer.kind != "words" and any(entry.answers is not None for entry in entries):
        _count_answers_in_tokens(entries, tokenizer, folder / "tokens.bin")
    write_atomically(folder / "tokenizer.model", tokenizer.save())
    write_json(folder / "documents.json", [entry.row() for entry in entries])
    names = ["tokens.bin", "tokenizer.model", "documents.json"]
    if any(entry.answers is not None for entry in entries):
        write_atomically(
            folder / "answers.bin", lambda file: file.writelines(_mask(entry).tobytes() for entry in entries)
        )
        names.append("answers.bin")
    left_out = np.sum([part.left_out for part in parts], axis=0).tolist()
    manifest = {
        "name": config.name,
        "settings": settings,
        "given": given_by(config),
        "source": described,
        "tokenizer": {
            **asdict(config.tokenizer),
            "vocabulary": tokenizer.vocabulary,
            "hash": tokenizers.tokenizer_hash(tokenizer),
        },
        "splits": {split: _count([entry for entry in entries if entry.split == split]) for split in SPLITS},
        "splitting": splitting,
        "left_out": {"documents": left_out[0], "bytes": left_out[1]},
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


def _read(source: Source, config: Data, work: Path, progress: Progress) -> list[Shard]:
    """Read the documents, leaving out those that are too short."""
    task = progress.add_task("Reading", total=None)
    parts = shards.read(source, config, work, lambda size: progress.advance(task, size))
    progress.update(task, total=progress.tasks[task].completed)
    if not any(part.entries for part in parts):
        short = sum(part.left_out[0] for part in parts)
        if short:
            raise UserError(
                f"none of {short} documents has {config.min_document} bytes; expected some of at least this length. Set "
                f"data.min_document lower{_and(_causes([], config, shards.noted(work)))}"
            )
        causes = _causes([], config, shards.noted(work))
        raise UserError(
            f"the source of data={config.name} gives no document; expected some{_and(causes) or '. Likely cause: its files are empty'}"
        )
    return parts


def _causes(parts: list[Shard], config: Data, notes: dict[str, Any]) -> list[str]:
    """What has left documents out, each with the setting that did it, if one did."""
    short = sum(part.left_out[0] for part in parts)
    own = [f"documents shorter than data.min_document={config.min_document} left out: {short:,}"] if short else []
    return own + said(notes)


def _and(causes: list[str]) -> str:
    return f". What it says: {'; '.join(causes)}" if causes else ""


def _split(parts: list[Shard], config: Data, causes: list[str]) -> dict[str, Any]:
    """Assign a split to each document whose source does not say it, or cut documents; then check all splits.

    Args:
        causes: what has left documents out.

    Returns:
        For the manifest: `by` which rule it was, its numbers, and what is said of it.

    Raises:
        UserError: there are too few documents, a split has none, two have the same name, or a group is in two splits.
    """
    entries = [entry for part in parts for entry in part.entries]
    splitting: dict[str, Any] = {"by": "source", "said": "split as the source says"}
    if unassigned := [entry for entry in entries if not entry.split]:
        _join_what_is_alike(unassigned)
        try:
            splitting = _assign(parts, unassigned, config)
        except UserError as error:
            raise UserError(f"{error}{_and(causes)}") from error
        entries = [entry for part in parts for entry in part.entries]
    _warn_of_what_is_trained_on(entries)
    names: set[str] = set()
    sides: dict[str, str] = {}
    for entry in entries:
        if entry.id in names:
            raise UserError(
                f"two documents are called {entry.id}; expected different names, or the same document could be in two "
                "splits. Likely cause: the same file or row twice"
            )
        names.add(entry.id)
        if sides.setdefault(entry.group, entry.split) != entry.split:
            raise UserError(
                f"document {entry.id} of the group {entry.group} is for {entry.split}, others of that group are for "
                f"{sides[entry.group]}; expected all documents of a group in one split"
            )
    if missing := [split for split in SPLITS if split not in sides.values()]:
        raise UserError(
            f"no document of {missing[0]} is left; expected some in each split. Likely cause: "
            f"{'; '.join(causes) or 'the source has none of that split'}"
        )
    return splitting


def _assign(parts: list[Shard], unassigned: list[Entry], config: Data) -> dict[str, Any]:
    """Split the documents whose source does not say it, by the settings or, if they give nothing, by what there is.

    Raises:
        UserError: there are too few, or there is too little text.
    """
    valid, test = config.valid_documents, config.test_documents
    if valid is not None or test is not None:
        other = splits.number_of(unassigned)
        numbers = {"valid": other if valid is None else valid, "test": other if test is None else test}
        _take(unassigned, splits.assign(unassigned, **numbers))
        return {"by": "numbers", **numbers, "said": splits.said_of_numbers(**numbers)}
    if (held_out := splits.hold_out(unassigned)) is not None:
        _take(unassigned, held_out)
        return {"by": "shares", "said": splits.said_of_shares()}
    groups = len({entry.group for entry in unassigned})
    whole = any(entry.answers is not None or entry.label is not None for entry in unassigned)
    if whole or any(entry.split for part in parts for entry in part.entries):
        raise UserError(splits.uncuttable(groups))
    sizes = [entry.bytes for entry in unassigned]
    cut = {entry.id for entry, is_cut in zip(unassigned, splits.to_cut(sizes), strict=True) if is_cut}
    if (share := splits.held_share(sum(entry.bytes for entry in unassigned if entry.id in cut))) is None:
        raise UserError(splits.too_little(sizes))
    for part in parts:
        part.cut(share, cuts=lambda entry: entry.id in cut)
    left_out = sum(sizes) - sum(entry.bytes for part in parts for entry in part.entries)
    seen = {"documents": len(cut), "groups": groups, "whole": len(unassigned) - len(cut), "left_out": left_out}
    return {"by": "bytes", "share": share, **seen, "said": splits.said_of_cuts(share, **seen)}


def _take(entries: list[Entry], split_of: dict[str, str]) -> None:
    for entry in entries:
        entry.split = split_of[entry.group]


def _join_what_is_alike(entries: list[Entry]) -> None:
    """Merge groups that have a text in common, or the same text could be trained on and then tested."""
    of_text: dict[str, str] = {}
    joined: dict[str, str] = {}

    def first(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    for entry in entries:
        here, there = first(entry.group), first(of_text.setdefault(entry.digest, entry.group))
        if here != there:
            joined[here] = there
    for entry in entries:
        entry.group = first(entry.group)


def _warn_of_what_is_trained_on(entries: list[Entry]) -> None:
    """Warn of held-out documents whose text is also in the training split, where the source itself says what is held out."""
    trained = {entry.digest for entry in entries if entry.split == "train" and entry.digest}  # parts have none
    alike = [entry for entry in entries if entry.split != "train" and entry.digest in trained and entry.answers is None]
    if alike:
        warn(
            f"held-out documents whose text is in the training split too: {len(alike)}, such as {alike[0].id} (the source says what is "
            "held out)"
        )


def _tokenizer(parts: list[Shard], config: Data, work: Path, progress: Progress) -> Tokenizer:
    """The tokenizer of the settings. If it was trained before the build was stopped, it is not trained again."""
    if (given := tokenizers.read(config.tokenizer)) is not None:
        return given
    trained = work / "tokenizer.model"
    model = trained.read_bytes() if trained.exists() else b""
    if model[:DIGEST] == hashlib.sha256(model[DIGEST:]).digest():  # else it is damaged, or an older version wrote it
        return tokenizers.load(model[DIGEST:], name=str(trained))
    size = sum(entry.bytes for part in parts for entry in part.entries if entry.split == "train")
    task = progress.add_task("Training the tokenizer", total=size)

    def texts() -> Iterator[str]:
        for part in parts:
            for entry, data in part.texts():
                if entry.split == "train":
                    yield as_text(entry.id, data)
                    progress.advance(task, entry.bytes)

    whole = config.tokenizer.kind in tokenizers.WITHOUT_MODEL
    tokenizer = tokenizers.train(config.tokenizer, texts() if whole else _sample(texts(), size))
    model = tokenizer.save()
    write_atomically(trained, hashlib.sha256(model).digest() + model)
    return tokenizer


def _sample(texts: Iterator[str], size: int) -> Iterator[str]:
    """Parts of the training texts, evenly spread; the same texts always give the same parts.

    Parts are counted in characters, so less is taken of a text that is not ASCII.

    Args:
        size: bytes of all texts together.
    """
    share = min(1.0, TRAINING_TEXT / size)
    seen = taken = 0
    for text in texts:
        for part in tokenizers.chunks(text, tokenizers.LONGEST_LINE):
            seen += len(part)
            if taken < seen * share:
                taken += len(part)
                yield part


def _encode(parts: list[Shard], tokenizer: Tokenizer, *, folder: Path, progress: Progress) -> None:
    """Write the tokens of all documents, one after another, and set each entry's number of tokens."""
    path = folder / "tokens.bin"
    size = sum(entry.bytes for part in parts for entry in part.entries)
    task = progress.add_task("Encoding", total=size)
    with writing(path):
        file = path.open("r+b" if path.exists() else "x+b")
    with file, Encoder(tokenizer, bytes=size) as encoder:
        for part in parts:
            if _written(part, file, tokenizer):
                progress.advance(task, sum(entry.bytes for entry in part.entries))
                continue
            digest = hashlib.sha256()
            for entry in part.entries:
                entry.tokens = 0
            for block, tokens in encoder.encode(part.texts()):
                with writing(path):
                    file.write(data := tokens.tobytes())
                digest.update(data)
                block.entry.tokens += len(tokens)
                progress.advance(task, len(block.data))
            with writing(path):
                file.flush()
                os.fsync(file.fileno())
            counts = [entry.tokens for entry in part.entries]
            write_sealed(part.encoded, {"tokens": counts, "sha256": digest.hexdigest()})
        file.truncate()


def _written(part: Shard, file: IO[bytes], tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a shard come next in `file`. If so `file` is then after them, else where it was."""
    if (record := shards.record(part.encoded)) is None:
        return False
    start = file.tell()
    left, digest = sum(record["tokens"]) * tokenizer.encode("").dtype.itemsize, hashlib.sha256()
    while left and (data := file.read(min(left, 1 << 20))):
        digest.update(data)
        left -= len(data)
    if left or digest.hexdigest() != record["sha256"]:
        file.seek(start)
        return False
    for entry, count in zip(part.entries, record["tokens"], strict=True):
        entry.tokens = count
    return True


def _count_answers_in_tokens(entries: list[Entry], tokenizer: Tokenizer, path: Path) -> None:
    """Replace the answers of each document, which are words, by all tokens that hold a part of them.

    The values of its slices that are lists, one for each answer, become as long as the answers.

    Args:
        path: the tokens of all documents.
    """
    every = np.memmap(path, dtype=tokenizer.encode("").dtype, mode="r").view(np.ndarray)
    start = 0
    for entry in entries:
        start, tokens = start + entry.tokens, every[start : start + entry.tokens]
        if entry.answers is None:
            continue
        pieces = tokenizer.pieces(np.asarray(tokens))
        words = np.cumsum([0, *(len(word) + 1 for word in b"".join(pieces).split(b" "))])  # begin after each space
        ends = np.cumsum([len(piece) for piece in pieces])
        answers: list[int] = []
        of_word: list[int] = []
        for place, word in enumerate(entry.answers):
            # The first token that ends behind the word's first byte, up to the one that holds its last byte.
            first = int(np.searchsorted(ends, words[word], side="right"))
            last = int(np.searchsorted(ends, words[word + 1] - 1))
            held = [token for token in range(first, last + 1) if not answers or token > answers[-1]]
            answers += held
            of_word += [place] * len(held)
        entry.answers = answers
        if entry.slices is not None:
            entry.slices = {
                name: [value[place] for place in of_word] if isinstance(value, list) else value
                for name, value in entry.slices.items()
            }


def _mask(entry: Entry) -> np.ndarray:
    """Whether each token of a document is scored, bool."""
    mask = np.full(entry.tokens, entry.answers is None)
    mask[list(entry.answers or ())] = True
    return mask

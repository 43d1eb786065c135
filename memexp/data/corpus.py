"""A prepared corpus: a folder of memory-mapped tokens. It is either complete or absent, and is verified when opened.

    data/<name>-<tokenizer>-<8 digits of a hash of what determines it>/
      tokens.bin        all documents one after another, uint16 or uint32
      answers.bin       bool, whether each token is scored; there only where some document has answers
      documents.json    [{"id", "group", "bytes", "split", "tokens"}, ...] in the order of tokens.bin; documents
                        with answers also have their number and, if held out, slices; those with a class have a label
      tokenizer.model   SentencePiece model, or the words; empty for bytes
      manifest.json     source with versions and licences, settings, counts, checksums of the files and of itself

It is built under a lock in a hidden folder next to it, which is renamed at the end. A stopped build leaves the hidden
folder if it holds a complete shard of text, and the next build continues from there.
"""

import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memexp.config.groups import Data
from memexp.data import tokenizers
from memexp.data.manifest import read_manifest
from memexp.data.sources import Source, open_source
from memexp.data.splits import SPLITS, hashed
from memexp.data.tokenizers import Tokenizer
from memexp.errors import UserError
from memexp.files import checksum, fingerprint, read_json
from memexp.lock import hold

FORMAT = 1
"""Raised when the same settings begin to give other tokens, so that old folders are not used for new settings."""


class TokenDocument(NamedTuple):
    """A document of a prepared corpus."""

    id: str
    tokens: np.ndarray
    """A slice of the memory-mapped file, uint16 or uint32."""
    bytes: int
    """Of the text's UTF-8."""
    answers: np.ndarray | None = None
    """Whether each token is scored, bool; None: all are."""
    slices: dict[str, Any] | None = None
    """Of a held-out document with answers: names, each with a value or with a list of one value for each answer."""
    label: str | None = None
    """Its class, if the source gives one."""

    def scored(self, max_document: int) -> np.ndarray:
        """Indices of the tokens that are scored, ascending. The first token of a document is never a target.

        Args:
            max_document: targets that are read at most; 0: all.
        """
        end = min(len(self.tokens), max_document + 1) if max_document else len(self.tokens)
        return np.arange(1, end) if self.answers is None else 1 + np.flatnonzero(self.answers[1:end])


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus whose checksums were verified."""

    path: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    made: bool
    """Whether it was prepared just now."""
    classes: tuple[str, ...] = ()
    """The classes that documents end in, if they do: the last entries of the vocabulary, in this order."""

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.vocabulary

    @property
    def answers_from(self) -> int:
        """The first id that an answer can have: that of the first class, if documents end in their class."""
        return self.vocabulary - len(self.classes) if self.classes else 0

    @property
    def content(self) -> dict[str, str]:
        """The checksums by which the corpus enters a run's identity; see `content_of`."""
        return content_of(self.manifest)

    @property
    def tokens_checksum(self) -> str:
        """Checksum of the tokens and, if only some are scored, of which these are."""
        return self.content["tokens_checksum"]

    @property
    def tokenizer_hash(self) -> str:
        return self.content["tokenizer_hash"]

    def seen_from(self, root: Path) -> str:
        """Its folder relative to `root`, so that it is still right when both have moved."""
        return os.path.relpath(self.path, root)

    @cached_property
    def _splits(self) -> dict[str, list[TokenDocument]]:
        tokens = np.memmap(self.path / "tokens.bin", dtype=self.manifest["dtype"], mode="r").view(np.ndarray)
        masked = "answers.bin" in self.manifest["files"]
        answers = np.memmap(self.path / "answers.bin", dtype=bool, mode="r").view(np.ndarray) if masked else None
        splits: dict[str, list[TokenDocument]] = {split: [] for split in SPLITS}
        start = 0
        for row in read_json(self.path / "documents.json"):
            end = start + row["tokens"]
            mask = None if answers is None else answers[start:end]
            document = TokenDocument(
                row["id"], tokens[start:end], row["bytes"], mask, row.get("slices"), row.get("label")
            )
            splits[row["split"]].append(document)
            start = end
        for documents in splits.values():
            documents.sort(key=lambda document: hashed(document.id))
        return splits

    def split(self, name: str) -> list[TokenDocument]:
        """The documents of `train`, `valid` or `test`, sorted by a hash of their ids, so that the first documents of a
        split are not all of one group."""
        return list(self._splits[name])


def prepare(config: Data, root: Path, *, force: bool = False) -> Corpus:
    """Open the corpus of these settings. It is made first if it is not there yet.

    Args:
        root: the folder whose data/ holds prepared corpora.
        force: make it again even if it exists.

    Raises:
        UserError: its documents cannot be read or are too few, the disk is full, or a prepared file is damaged.
    """
    source = open_source(config, root)
    settings = _settings(config, source)
    path = _folder(config, settings, root)
    if path.exists() and not force:
        return open_corpus(path)
    with _locked(path):
        # Another process may have made it while this one waited.
        if force or not path.exists():
            _make(config, source, settings, path, anew=force)
            return _open(path, made=True)
    return open_corpus(path)


def content_of(manifest: dict[str, Any]) -> dict[str, str]:
    """The checksums of a corpus: its tokens, its documents with their splits, and its tokenizer."""
    files = manifest["files"]
    tokens = str(files["tokens.bin"]["sha256"])
    return {
        "tokens_checksum": fingerprint([tokens, files["answers.bin"]["sha256"]]) if "answers.bin" in files else tokens,
        "documents_checksum": str(files["documents.json"]["sha256"]),
        "tokenizer_hash": str(manifest["tokenizer"]["hash"]),
    }


def prepared(config: Data, root: Path) -> Path | None:
    """The folder of the corpus of these settings, without opening it; None if it is not prepared."""
    try:
        path = folder_of(config, root)
    except UserError:  # it cannot be prepared either
        return None
    return path if path.exists() else None


def open_corpus(path: Path) -> Corpus:
    """Open a prepared corpus by its folder.

    Raises:
        UserError: it does not exist, or a file is damaged.
    """
    return _open(path, made=False)


def folder_of(config: Data, root: Path) -> Path:
    """The folder of the corpus of these settings, whether it is prepared or not.

    Raises:
        UserError: its source cannot be opened.
    """
    return _folder(config, settings_of(config, root), root)


def settings_of(config: Data, root: Path) -> dict[str, Any]:
    """What determines the corpus of these settings, as the manifest has it.

    Raises:
        UserError: its source cannot be opened.
    """
    return _settings(config, open_source(config, root))


def _settings(config: Data, source: Source) -> dict[str, Any]:
    """What determines the tokens and the splits."""
    tokenizer = asdict(config.tokenizer)
    if config.tokenizer.lossless:  # left out, so that corpora older than this setting keep their hash
        del tokenizer["lossless"]
    if config.tokenizer.path is not None:
        loaded = tokenizers.read(config.tokenizer)
        assert loaded is not None  # a tokenizer with a path needs no training
        tokenizer = {"hash": tokenizers.tokenizer_hash(loaded)}
    return {
        "format": FORMAT,
        "source": {"_target_": config.source._target_, "identity": source.identity()},
        "tokenizer": tokenizer,
        "min_document": config.min_document,
        "valid_documents": config.valid_documents,
        "test_documents": config.test_documents,
    }


def _folder(config: Data, settings: dict[str, Any], root: Path) -> Path:
    if not config.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or config.name.startswith("."):
        raise UserError(
            f"data.name is {config.name!r}; expected letters, digits, '-', '_' and '.', for it names a folder"
        )
    return root / "data" / f"{config.name}-{tokenizers.tag(config.tokenizer)}-{fingerprint(settings)[:8]}"


def _locked(path: Path) -> AbstractContextManager[None]:
    """Hold the lock for making `path`. Waits if another process holds it."""
    from memexp.terminal import console

    def wait(process: str) -> None:
        console(stderr=True).print(f"Waiting for {process}, which prepares {path.name}", markup=False)

    return hold(path.with_name(f".{path.name}.lock"), busy=wait)


def _make(config: Data, source: Source, settings: dict[str, Any], path: Path, *, anew: bool) -> None:
    """Build next to `path` and rename, so that `path` is never incomplete. The caller holds the lock.

    Args:
        anew: do not continue what a stopped build has left.
    """
    from memexp.data.preparation import WORK, build
    from memexp.data.shards import writing
    from memexp.terminal import console

    screen = console(stderr=True)
    absent = source.describe()["absent"]
    if absent:
        screen.print(f"Not installed, so not in {config.name}: {', '.join(absent)}", style="yellow", markup=False)
    partial, replaced, done = (path.with_name(f".{path.name}.{word}") for word in ("partial", "replaced", "done"))
    for left in (replaced, done, *([partial] if anew else [])):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir(exist_ok=True)
        # On a full disk, closing a file writes its buffer once more, and that error replaces the first error.
        with writing(partial):
            build(config, source=source, settings=settings, folder=partial, console=screen)
        (partial / WORK).rename(done)
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
    except OSError as error:
        raise UserError(
            f"cannot write {partial}: {error.strerror or error}; expected a folder that can be written"
        ) from error
    finally:
        if not any(partial.glob(f"{WORK}/*.json")):  # nothing to continue
            shutil.rmtree(partial, ignore_errors=True)
        for left in (replaced, done):
            shutil.rmtree(left, ignore_errors=True)


def _open(path: Path, *, made: bool) -> Corpus:
    again = "`memexp prepare` with the same settings and force=true makes it again"
    try:
        manifest = read_manifest(path)
    except UserError as error:
        raise UserError(f"{error}. {again}") from error
    for name, expected in manifest["files"].items():
        _verify(path / name, expected, again)
    model = (path / "tokenizer.model").read_bytes()
    return Corpus(path, manifest, tokenizers.load(model, name=str(path / "tokenizer.model")), made)


def _verify(file: Path, expected: dict[str, Any], again: str) -> None:
    """Compare a file's size and checksum with those of the manifest."""
    try:
        size = file.stat().st_size
        seen = checksum(file) if size == expected["bytes"] else f"of {size:,} bytes"
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror}; expected a file with SHA-256 {expected['sha256']}. {again}"
        ) from error
    if seen != expected["sha256"]:
        raise UserError(
            f"{file} is damaged: it is {seen}; expected SHA-256 {expected['sha256']} of {expected['bytes']:,} bytes. Likely "
            f"cause: it was edited, or a copy was cut off. {again}"
        )

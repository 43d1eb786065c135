"""A prepared corpus: a folder of memory-mapped tokens. It is either complete or absent, and is verified when opened.

    data/<name>-<tokenizer>-<8 digits of a hash of what determines it>/
      tokens.bin        all documents one after another, uint16 or uint32
      answers.bin       bool, whether each token is scored; there only where some document has answers
      documents.json    [{"id", "group", "bytes", "split", "tokens"}, ...] in the order of tokens.bin; documents
                        with answers also have their number and, if held out, slices; those with a class have a label;
                        parts of a document that was cut have their start in it, in bytes
      tokenizer.model   SentencePiece model, or the words; empty for bytes
      manifest.json     source with versions and licences, settings, counts, checksums of the files and of itself

It is built under a lock in a hidden folder next to it, which is renamed at the end. A stopped build leaves the hidden
folder if it holds a complete shard of text, and the next build continues from there. A refused build leaves nothing. What a killed
process leaves is removed at the next start, unless a build can continue from it.
"""

import os
import shutil
import sys
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memexp.config.groups import Data
from memexp.config.shape import CORPUS, checked
from memexp.data import tokenizers
from memexp.data.manifest import given_by, read_manifest
from memexp.data.shards import WORK, writing
from memexp.data.sources import Source, open_source
from memexp.data.sources.notes import said
from memexp.data.sources.places import walk
from memexp.data.splits import RULE, SPLITS, hashed
from memexp.data.tokenizers import Tokenizer
from memexp.errors import UserError
from memexp.files import checksum, fingerprint, read_json
from memexp.lock import hold
from memexp.machine import why_full
from memexp.terminal import escape, warn

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
        for row in self._rows(len(tokens)):
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

    def _rows(self, tokens: int) -> list[dict[str, Any]]:
        path = self.path / "documents.json"
        rows: list[dict[str, Any]] = checked(read_json(path), CORPUS, path)
        whole = all({"id", "bytes", "split", "tokens"} <= row.keys() and row["split"] in SPLITS for row in rows)
        if not whole or sum(row["tokens"] for row in rows) != tokens:
            raise UserError(
                f"{path} does not list documents of {tokens:,} tokens in all, each with id, bytes, split and tokens; expected the list of "
                "a prepared corpus. Likely cause: it was edited"
            )
        return rows

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
    kept = None if force else _kept(config, root)
    if kept is not None:
        warn(
            f"data.path is {config.path}, which is not there any more; uses {kept.name}, which was prepared from it. Not checked: whether "
            "its text has changed since"
        )
        return open_corpus(kept)
    source = open_source(config, root)
    settings = _settings(config, source)
    path = _folder(config, settings, root)
    left = _clean(path)
    if path.exists() and not force:
        return open_corpus(path)
    for line in left:
        warn(line)
    with _locked(path):
        _tidy(path)
        try:
            # Another process may have made it while this one waited.
            if force or not path.exists():
                _make(config, source, settings, path, anew=force)
                return _open(path, made=True)
        finally:
            if not path.exists() and not _beside(path, "partial").exists():
                _lock_of(path).unlink(missing_ok=True)
    return open_corpus(path)


def _kept(config: Data, root: Path) -> Path | None:
    """The corpus that was prepared from what was at `data.path`, if nothing is there any more; None otherwise.

    Raises:
        UserError: there is more than one, or a folder cannot be read.
    """
    if config.path is None or (place := Path(config.path).expanduser()).is_file():
        return None
    found: list[Path] = []
    for file in sorted((root / "data").glob(f"{config.name}-*/manifest.json")):
        with suppress(UserError):
            if _made_from(read_manifest(file.parent), config):
                found.append(file.parent)
    if not found or (place.is_dir() and walk(place, hidden=True).members):  # a purge may leave empty folders
        return None
    if len(found) > 1:
        raise UserError(
            f"data.path is {config.path}, which is not there any more, and {len(found)} corpora were prepared from it, at times when its "
            f"text differed: {', '.join(path.name for path in found)}; expected one in {root / 'data'}. Bring the text back, or move the "
            "corpora away that are not wanted"
        )
    return found[0] if found else None


def _made_from(manifest: dict[str, Any], config: Data) -> bool:
    """Whether a corpus was prepared with these settings, from what was then at `data.path`."""
    settings, source = manifest["settings"], manifest["source"]
    if (given := manifest.get("given")) is None:  # older manifests name only the path
        same = [part["name"] for part in source["parts"]] == [str(Path(str(config.path)).expanduser())]
        options, identity = asdict(config.source), settings["source"]["identity"]
        same &= all(identity.get(name, value) == value for name, value in options.items())
    else:
        same = given == given_by(config)
    return same and all(settings.get(name) == value for name, value in _chosen(config).items() if name != "source")


def _beside(path: Path, word: str) -> Path:
    """A hidden folder of a build, beside the corpus that it makes."""
    return path.with_name(f".{path.name}.{word}")


def _lock_of(path: Path) -> Path:
    return _beside(path, "lock")


def _tidy(path: Path) -> None:
    """Finish or remove what a killed build of a corpus has left, except what a build can continue. The caller holds the lock."""
    partial, replaced = _beside(path, "partial"), _beside(path, "replaced")
    if not path.exists() and replaced.exists():  # killed between two renames
        whole = (partial / "manifest.json").exists() and not (partial / WORK).exists()
        (partial if whole else replaced).rename(path)
    for left in (replaced, _beside(path, "done")):
        shutil.rmtree(left, ignore_errors=True)
    if not any(partial.glob(f"{WORK}/*.json")):
        shutil.rmtree(partial, ignore_errors=True)


def _clean(path: Path) -> list[str]:
    """Remove what killed builds of other corpora have left, unless a process is at work there.

    Returns:
        One line for each build that its own command could continue, which is kept.
    """

    def leave(process: str) -> None:
        raise UserError(process)

    lines = []
    hidden = [each for word in ("partial", "done", "replaced") for each in path.parent.glob(f".*.{word}")]
    for name in sorted({each.name[1:].rpartition(".")[0] for each in hidden} - {path.name}):
        other = path.with_name(name)
        with suppress(UserError, OSError), hold(_lock_of(other), busy=leave):
            _tidy(other)
            if (partial := _beside(other, "partial")).exists():
                size = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
                lines.append(
                    f"{partial} holds {size / 1e6:,.1f} MB of a build that was stopped: its own `memexp prepare` continues it, and you can "
                    "delete it"
                )
            elif not other.exists():
                _lock_of(other).unlink(missing_ok=True)
    return lines


def _refused(error: BaseException) -> bool:
    """Whether the same build would fail again. What failed because of the disk or the network may succeed later."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return isinstance(error, UserError) and cause is None


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


def recorded(where: str, root: Path) -> Path:
    """The folder of the corpus that a summary names; the summary may come from somebody else.

    Raises:
        UserError: it is none of the root's corpora.
    """
    folder = Path(os.path.normpath(root / where))
    if folder.parent not in (root / "data", (root / "data").resolve()):  # data may be a link to a larger disk
        raise UserError(
            f"the summary names the corpus {where!r}; expected a folder of {root / 'data'}. Likely cause: the run comes from somebody "
            "else, or was edited"
        )
    return folder


def with_content(content: dict[str, str], root: Path) -> Path | None:
    """The folder of a prepared corpus with these checksums; None if there is none."""
    for path in sorted((root / "data").glob("[!.]*/manifest.json")):
        try:
            if content_of(read_manifest(path.parent)) == content:
                return path.parent
        except UserError:  # a damaged corpus does not hide the others
            continue
    return None


def folder_of(config: Data, root: Path) -> Path:
    """The folder of the corpus of these settings, whether it is prepared or not.

    Raises:
        UserError: its source cannot be opened.
    """
    return _kept(config, root) or _folder(config, settings_of(config, root), root)


def settings_of(config: Data, root: Path) -> dict[str, Any]:
    """What determines the corpus of these settings, as the manifest has it.

    Raises:
        UserError: its source cannot be opened.
    """
    return _settings(config, open_source(config, root))


def _settings(config: Data, source: Source) -> dict[str, Any]:
    """What determines the tokens and the splits."""
    chosen = _chosen(config)
    chosen["source"]["identity"] = source.identity()
    return chosen


def _chosen(config: Data) -> dict[str, Any]:
    """What determines the tokens and the splits, without the documents."""
    tokenizer = asdict(config.tokenizer)
    if config.tokenizer.lossless:  # left out, so that corpora older than this setting keep their hash
        del tokenizer["lossless"]
    if config.tokenizer.path is not None:
        loaded = tokenizers.read(config.tokenizer)
        assert loaded is not None  # a tokenizer with a path needs no training
        tokenizer = {"hash": tokenizers.tokenizer_hash(loaded)}
    return {
        "format": FORMAT,
        "source": {"_target_": config.source._target_},
        "tokenizer": tokenizer,
        "min_document": config.min_document,
        "valid_documents": config.valid_documents,
        "test_documents": config.test_documents,
        **({"splits": RULE} if None in (config.valid_documents, config.test_documents) else {}),
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

    return hold(_lock_of(path), busy=wait)


def _make(config: Data, source: Source, settings: dict[str, Any], path: Path, *, anew: bool) -> None:
    """Build next to `path` and rename, so that `path` is never incomplete. The caller holds the lock.

    Args:
        anew: do not continue what a stopped build has left.
    """
    from memexp.data.preparation import build
    from memexp.terminal import console

    screen = console(stderr=True)
    described = source.describe()
    absent = described["absent"]
    if described.get("kinds"):
        kinds = ", ".join(f"{count} of {kind}" for kind, count in described["kinds"].items())
        print(escape(f"{config.name} reads {kinds}"), file=sys.stderr)
    if absent:
        warn(f"not installed, so not in {config.name}: {', '.join(absent)}")
    partial, replaced, done = (_beside(path, word) for word in ("partial", "replaced", "done"))
    if anew:
        shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(exist_ok=True)
        # On a full disk, closing a file writes its buffer once more, and that error replaces the first error.
        with writing(partial):
            build(config, source=source, settings=settings, folder=partial, console=screen)
        for line in said(read_json(partial / "manifest.json")["source"].get("notes", {})):
            warn(f"{config.name}: {line}")
        (partial / WORK).rename(done)
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
    except UserError as error:
        if _refused(error):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        raise UserError(
            f"cannot write {partial}: {error.strerror or error}; expected a folder that can be written{why_full(error, partial)}"
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
    model = path / "tokenizer.model"
    try:
        tokenizer = tokenizers.load(model.read_bytes(), name=str(model))
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise UserError(f"{model} is no tokenizer ({error}); expected one that memexp saved. {again}") from error
    return Corpus(path, manifest, tokenizer, made)


def _verify(file: Path, expected: dict[str, Any], again: str) -> None:
    """Compare a file's size and checksum with those of the manifest."""
    try:
        size = file.stat().st_size
        seen = checksum(file) if file.is_file() and size == expected["bytes"] else f"of {size:,} bytes"
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror}; expected a file with SHA-256 {expected['sha256']}. {again}"
        ) from error
    if seen != expected["sha256"]:
        raise UserError(
            f"{file} is damaged: it is {seen}; expected SHA-256 {expected['sha256']} of {expected['bytes']:,} bytes. Likely "
            f"cause: it was edited, or a copy was cut off. {again}"
        )

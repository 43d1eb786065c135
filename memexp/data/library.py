"""The corpora of a root folder: which there are, and making one that is not there yet.

A corpus is built under a lock in a hidden folder next to it, which is renamed at the end. A stopped build leaves the hidden
folder if it holds a complete shard of text, and the next build continues from there. A refused build leaves nothing. What a killed
process leaves is removed at the next start, unless a build can continue from it.
"""

import shutil
import sys
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memexp.config.groups import Data
from memexp.data import tokenizers
from memexp.data.corpus import Corpus, open_corpus
from memexp.data.manifest import given_by, read_manifest
from memexp.data.shards import WORK, writing
from memexp.data.sources import Source, open_source
from memexp.data.sources.notes import said
from memexp.data.sources.places import walk
from memexp.data.splits import RULE
from memexp.errors import UserError
from memexp.files import fingerprint, read_json
from memexp.lock import hold
from memexp.machine import why_full
from memexp.terminal import escape, warn

FORMAT = 1
"""Raised when the same settings begin to give other tokens, so that old folders are not used for new settings."""


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
                return open_corpus(path, made=True)
        finally:
            if not path.exists() and not _beside(path, "partial").exists():
                _lock_of(path).unlink(missing_ok=True)
    return open_corpus(path)


def prepared(config: Data, root: Path) -> Path | None:
    """The folder of the corpus of these settings, without opening it; None if it is not prepared."""
    try:
        path = folder_of(config, root)
    except UserError:  # it cannot be prepared either
        return None
    return path if path.exists() else None


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

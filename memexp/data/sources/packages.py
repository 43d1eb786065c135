"""Source code that every installation has: Python's standard library and installed packages."""

import platform
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import metadata, util
from pathlib import Path
from typing import Any

from memexp.config.sources import PythonPackagesOptions
from memexp.data.sources.document import Document
from memexp.errors import UserError

LONG_MODULE = 60_000
"""Bytes from which a module by itself, or a part of a package that is cut up, is a document of its own."""

LEFT_OUT_FOLDERS = (
    "test",
    "tests",
    "idle_test",
    "_vendor",
    "vendor",
    "_vendored",
    "vendored",
    "site-packages",
    "__pycache__",
)
"""Tests are there in some distributions and not in others; vendored copies would stand on two sides of a split."""

LEFT_OUT_FILES = ("*_pb2.py", "*_pb2_grpc.py")
"""Compiled by protobuf: not written by anybody."""

LEFT_OUT_MODULES = ("encodings", "pydoc_data", "distutils")
"""Of the standard library: generated tables, generated text, and what setuptools holds a copy of."""


class PythonPackages:
    """A document for each package, or for each of its sub-packages where it is large; its files sorted and joined.

    A module of the standard library that is no package is a document when it has at least 60,000 bytes. Where the files
    directly in a package are too many for one document, those of at least 60,000 bytes are documents too. The group of
    a document is its top-level package or module.
    """

    def __init__(self, options: PythonPackagesOptions) -> None:
        """
        Raises:
            UserError: none of the packages is installed.
        """
        self._options = options
        names = list(dict.fromkeys(options.packages))
        if options.standard_library:
            names += [name for name in _standard_library() if name not in names]
        self._places = {name: _locate(name) for name in sorted(names)}
        self._absent = [name for name, place in self._places.items() if place is None]
        if len(self._absent) == len(names):
            raise UserError(
                f"data.source.packages is {options.packages}, none of which is installed; expected names that can be imported"
            )

    def __iter__(self) -> Iterator[Document]:
        for name, place in self._places.items():
            if place is None:
                continue
            for id, files in _cut(name, place, self._options.cut_above):
                text = "\n".join(_read(file) for file in files)
                if text:
                    yield Document(id, name, text)

    def describe(self) -> dict[str, Any]:
        """Version and licence of every package, from its own metadata."""
        distributions = metadata.packages_distributions()
        python = {"name": "Python standard library", "version": platform.python_version(), "licence": "PSF-2.0"}
        parts: list[dict[str, str]] = []
        for name, place in self._places.items():
            if name in sys.stdlib_module_names:
                if python not in parts:
                    parts.append(python)
            elif place is not None:
                distribution = metadata.metadata(distributions[name][0]) if name in distributions else None
                version = distribution["Version"] if distribution else "unknown"
                parts.append({"name": name, "version": version, "licence": _licence(distribution)})
        return {"what": "sources of installed Python packages", "parts": parts, "absent": self._absent}

    def identity(self) -> Any:
        """The settings without the versions: a prepared corpus outlives an upgrade, so that old runs can be scored."""
        chosen = self._options
        return {
            "packages": chosen.packages, "standard_library": chosen.standard_library, "cut_above": chosen.cut_above
        }  # fmt: skip


def _standard_library() -> list[str]:
    """Names of its packages and long modules that are there."""
    names = []
    for name in sorted(sys.stdlib_module_names - set(LEFT_OUT_MODULES)):
        place = _locate(name)
        if place is not None and (place.is_dir() or place.stat().st_size >= LONG_MODULE):
            names.append(name)
    return names


def _locate(name: str) -> Path | None:
    """The folder of a package or the file of a module, found without importing it; None where there is none."""
    if name in sys.stdlib_module_names:
        folder = Path(sysconfig.get_path("stdlib")) / name
        module = folder.with_name(f"{name}.py")
        return folder if folder.is_dir() else module if module.is_file() else None
    spec = util.find_spec(name) if name.isidentifier() else None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _cut(name: str, place: Path, cut_above: int) -> Iterator[tuple[str, list[Path]]]:
    """The documents of a package: each one's id and files."""
    files = _sources(place)
    if place.is_file() or _size(files) <= cut_above:
        yield name, files
        return
    own = [file for file in files if file.parent == place]
    large = [file for file in own if _size([file]) >= LONG_MODULE] if _size(own) > cut_above else []
    own = [file for file in own if file not in large]
    for folder in sorted({place / file.relative_to(place).parts[0] for file in files if file.parent != place}):
        if _size(_sources(folder)) >= LONG_MODULE:
            large.append(folder)
        else:
            own += _sources(folder)
    yield name, own
    for part in large:
        yield from _cut(f"{name}.{part.stem}", part, cut_above)


def _sources(place: Path) -> list[Path]:
    """The .py files of a folder and below it, sorted, without what is left out; the file itself if it is one."""
    if place.is_file():
        return [place]
    files = []
    for file in place.rglob("*.py"):
        folders = file.relative_to(place).parts[:-1]
        if not set(folders) & set(LEFT_OUT_FOLDERS) and not any(fnmatch(file.name, left) for left in LEFT_OUT_FILES):
            files.append(file)
    return sorted(files, key=lambda file: file.relative_to(place).parts)


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _read(file: Path) -> str:
    """A module's text, decoded as Python decodes it."""
    try:
        with tokenize.open(file) as opened:
            return opened.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {file}: {error}; expected Python source. Likely cause: a damaged installation of that package"
        ) from error


def _licence(distribution: Any) -> str:
    """What the metadata say: the SPDX expression, else the classifiers, else a one-line licence field."""
    if distribution is None:
        return "not stated"
    if distribution.get("License-Expression"):
        return str(distribution["License-Expression"])
    classifiers = [line for line in distribution.get_all("Classifier") or [] if line.startswith("License ::")]
    named = [line.split(" :: ")[-1] for line in classifiers if line != "License :: OSI Approved"]
    if named:
        return ", ".join(named)
    stated = (distribution.get("License") or "").strip()
    return stated if stated and "\n" not in stated and len(stated) < 80 else "not stated"

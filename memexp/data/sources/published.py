"""Published data sets: their rows come from the hub, or from files of the same form on disk."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from memexp.config.sources import FilesOptions, PublishedOptions, TextsOptions
from memexp.data.sources import hub
from memexp.data.sources.document import Document
from memexp.data.sources.files import NO_ROW, Files, is_file, read_text
from memexp.data.sources.kinds import Kind, kind_of, mixture
from memexp.data.sources.notes import Notes
from memexp.data.sources.places import Walked, pick, reading, walk
from memexp.data.sources.rows import JSON, LINES, TABLES, BadRow, BadRows, field, label_field, read_rows, text_field
from memexp.terminal import escape

ROWS = LINES + JSON + TABLES
"""Endings of files that contain rows, like those of the hub."""

METADATA = ".json"
"""Such a file can also be a description beside rows or texts, so it counts as rows only if there is nothing else."""

SPLITS = {"train": ["train"], "validation": ["valid"], "test": ["test"]}
"""Names of splits on the hub, and their names here."""

NAMED = re.compile(r"(?:^|[-_./])(train|validation|valid|val|dev|test)(?=[-_./]|$)")
"""The split in the name of a file or of its folder: c4-train.00000-of-01024.json.gz, validation/1.txt, wiki.test.raw."""

NO_SPLIT = "files of no published split left out"

ALSO = {"valid": "validation", "val": "validation", "dev": "validation"}
"""Other names of published splits."""


class Row(NamedTuple):
    """A row of a data set, or a text file."""

    name: str
    """Unique, such as train:17."""
    where: str
    """Where the row is, for messages."""
    split: str
    """train, valid or test; empty if the data set does not have all published splits."""
    values: dict[str, Any]


class Published(ABC):
    """A data set of rows; text is kept as it was published.

    Published splits are kept if all of them are there. On disk the names of files or folders say the split. Files without a
    split are then left out, because they would be added to a published split.
    """

    ROWS_FIRST = True
    """Whether rows or text files are taken from a folder that has both."""

    def __init__(
        self,
        options: PublishedOptions,
        path: str | None,
        *,
        suffixes: Sequence[str],
        splits: dict[str, list[str]] | None = None,
        rows: int = 0,
    ) -> None:
        """
        Args:
            path: a file or a folder on disk to read instead of the hub.
            suffixes: endings of the files on disk that are texts themselves.
            splits: published splits, and for each the splits here that its rows go to in turn; none: as published.
            rows: how many are read of each split or file, its first; 0: all.

        Raises:
            UserError: there is nothing at `path`.
        """
        self._options, self._splits, self._rows = options, splits or SPLITS, rows
        self.fields, self.suffixes = options.fields, tuple(suffixes)
        self.path = None if path is None else Path(path).expanduser()
        self.files = None if self.path is None else self._search(self.path, str(path), self.suffixes)
        self.notes, self.bad = Notes(), BadRows(options.bad_rows, Notes())
        self._kinds: dict[Path, Kind] = {}
        self._begin()

    def _search(self, path: Path, typed: str, suffixes: tuple[str, ...]) -> Files:
        rows = tuple(suffix for suffix in ROWS if suffix != METADATA)
        endings = (*((rows, suffixes) if self.ROWS_FIRST else (suffixes, rows)), (METADATA,))
        walked = Walked(path, [], [], {}) if is_file(path, typed) else walk(path)
        chosen = next((ending for ending in endings if ending and pick(walked, ending).files), suffixes + ROWS)
        settable = ", or other endings in data.source.suffixes" if hasattr(self._options, "suffixes") else ""
        return Files(FilesOptions(suffixes=list(chosen)), typed, endings_in=settable)

    def _begin(self) -> None:
        """Forget what an earlier reading has noted."""
        self.notes = Notes(self.files.left_out if self.files is not None else None)
        self.bad = BadRows(self._options.bad_rows, self.notes)

    def kind(self, file: Path) -> Kind:
        """What a file on disk is."""
        if file not in self._kinds:
            self._kinds[file] = kind_of(file, self._names, rows=file.name.endswith(JSON))
        return self._kinds[file]

    @property
    def _names(self) -> list[str]:
        """Every field that is read."""
        return [name for names in self.fields.values() for name in names]

    @abstractmethod
    def __iter__(self) -> Iterator[Document]: ...

    def rows(self) -> Iterator[Row]:
        """All rows, split after split or file after file.

        Raises:
            UserError: the hub cannot be read, or a file.
        """
        self._begin()
        return self._of_hub() if self.files is None else self._of_files(self.files)

    def text_rows(self, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a text file: by default the whole file is one row."""
        yield "row 1", {self.fields["text"][0]: read_text(file, self.kind(file))}

    def text(self, row: Row, word: str = "text") -> str:
        """A field of the row that must be there.

        Raises:
            BadRow: it is missing or not text.
        """
        return text_field(row.values, self.fields[word], where=row.where, setting=f"data.source.fields.{word}")

    def value(self, row: Row, word: str) -> Any:
        """A field of the row; None if there is none."""
        return field(row.values, self.fields.get(word, []))

    @cached_property
    def _found(self) -> hub.Found:
        return hub.find(
            self._options.sets,
            otherwise=f"Files on disk also work: data.path=PATH. Without both: data={self._options.instead}",
        )

    def _of_hub(self) -> Iterator[Row]:
        found = self._found
        whole = set(self._splits) <= set(found.splits)
        for published in self._splits if whole else found.splits:
            for number, row in islice(hub.stream(found, published), self._rows or None):
                where = f"{found.name}, row {number} of {published}"
                yield Row(f"{published}:{number}", where, self._split(published, number) if whole else "", row)

    def _of_files(self, files: Files) -> Iterator[Row]:
        published = {file: self._published(files.name(file)) for file in files.files}
        whole = set(self._splits) <= set(published.values())
        for file in files.files:
            if whole and published[file] not in self._splits:
                self.notes.add(NO_SPLIT, files.name(file))
                continue
            kind = self.kind(file)
            rows = read_rows(file, kind, self._names, self.bad) if kind.rows else self.text_rows(file)
            split = published[file] if whole else ""
            number = 0
            for number, (where, row) in enumerate(islice(rows, self._rows or None), start=1):
                name = f"{files.name(file)}:{number}" if kind.rows else files.name(file)
                yield Row(name, f"{escape(file)}, {where}", self._split(split, number), row)
            if not number:
                self.notes.add(NO_ROW, files.name(file))
            elif number == self._rows and next(rows, None) is not None:
                self.notes.add(f"files read up to row {self._rows:,} only (data.source.rows)", files.name(file))

    def _published(self, name: str) -> str:
        """The published split in a file's name; empty if there is none."""
        named = NAMED.search(name)
        return ALSO.get(named[1], named[1]) if named else ""

    def _split(self, published: str, number: int) -> str:
        """The split of a row. If a published split is divided, its rows go to each part in turn."""
        ours = self._splits.get(published) or [""]
        return ours[(number - 1) % len(ours)]

    def describe(self) -> dict[str, Any]:
        """The data set that is read, with its commit, or the files.

        Raises:
            UserError: the hub cannot be read.
        """
        if self.files is not None:
            described = {**self.files.listed(), **mixture([self.kind(file) for file in self.files.files])}
            return {**described, "parts": [{**part, "licence": self._options.licence} for part in described["parts"]]}
        part = {"name": self._found.name, "version": self._found.revision, "licence": self._options.licence}
        return {"what": "a data set of the hub", "parts": [part], "absent": []}

    def identity(self) -> Any:
        """The settings, and names and sizes of files, whose content can be many gigabytes, so it is not read for this.

        The commit is left out, so that a prepared corpus is still used after a change on the hub.
        """
        read: dict[str, Any] = {"sets": self._options.sets}
        if self.files is not None:
            read = {"files": self._sizes(self.files)}
            # Older versions read these as texts, or not at all.
            rows = [
                self.files.name(each)
                for each in self.files.files
                if not each.name.endswith(ROWS) and self.kind(each).rows
            ]
            read |= {"rows_of": rows} if rows else {}
        skipped = {} if self._options.bad_rows == "refuse" else {"bad_rows": self._options.bad_rows}
        return {"fields": self.fields, "splits": self._splits, "rows": self._rows, **self.chosen(), **read, **skipped}

    def chosen(self) -> dict[str, Any]:
        """Other options that determine the documents."""
        return {}

    def _sizes(self, files: Files) -> dict[str, int]:
        sizes = {}
        for file in files.files:
            with reading(file):
                sizes[files.name(file)] = file.stat().st_size
        return sizes


class Texts(Published):
    """Each row or text file is a document, and a group of its own."""

    def __init__(self, options: TextsOptions, path: str | None) -> None:
        super().__init__(options, path, suffixes=options.suffixes, splits=options.splits, rows=options.rows)
        self._longer_than, self._category, self._label = options.longer_than, options.category, options.label
        if options.label:
            self.fields = options.fields | {"label": [options.label]}

    def chosen(self) -> dict[str, Any]:
        return {"longer_than": self._longer_than, "category": self._category}

    def __iter__(self) -> Iterator[Document]:
        for row in self.rows():
            if not self._wanted(row):
                self.notes.add(
                    f"documents of other categories left out (data.source.category={self._category})", row.name
                )
                continue
            try:
                document = self._document(row)
            except BadRow as error:
                self.bad(error)
                continue
            if document is None:
                self.notes.add(
                    f"documents of {self._longer_than:,} bytes or fewer left out (data.source.longer_than)", row.name
                )
                continue
            yield document

    def _document(self, row: Row) -> Document | None:
        """The document of a row; None if it is too short."""
        text = self.text(row)
        # A character has at least one byte, so most texts need not be encoded to know this.
        if len(text) <= self._longer_than and len(text.encode("utf-8")) <= self._longer_than:
            return None
        title = self.value(row, "title")
        id = row.name if title is None else f"{row.name} {title}".encode("utf-8", "backslashreplace").decode()
        label = label_field(row.values, self._label, where=row.where) if self._label else None
        return Document(id, id, text, row.split, label=label)

    def _wanted(self, row: Row) -> bool:
        category = self.value(row, "category")
        first = category[0] if isinstance(category, list) and category else category
        return first is None or str(first).startswith(self._category)

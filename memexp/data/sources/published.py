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
from memexp.data.sources.files import Files, read_text, search
from memexp.data.sources.rows import JSON, LINES, TABLES, field, label_field, read_rows, text_field, unreadable

ROWS = LINES + JSON + TABLES
"""Endings of files that contain rows, like those of the hub."""

METADATA = ".json"
"""Such a file can also be a description beside rows or texts, so it counts as rows only if there is nothing else."""

SPLITS = {"train": ["train"], "validation": ["valid"], "test": ["test"]}
"""Names of splits on the hub, and their names here."""

NAMED = re.compile(r"(?:^|[-_./])(train|validation|valid|val|dev|test)(?=[-_./]|$)")
"""The split in the name of a file or of its folder: c4-train.00000-of-01024.json.gz, validation/1.txt, wiki.test.raw."""

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
        self.fields = options.fields
        self.path = None if path is None else Path(path).expanduser()
        self.files = None if self.path is None else self._search(self.path, tuple(suffixes))

    def _search(self, path: Path, suffixes: tuple[str, ...]) -> Files:
        rows = tuple(suffix for suffix in ROWS if suffix != METADATA)
        kinds = (*((rows, suffixes) if self.ROWS_FIRST else (suffixes, rows)), (METADATA,))
        kind = next((kind for kind in kinds if kind and search(path, kind)), suffixes + ROWS)
        return Files(FilesOptions(suffixes=list(kind)), str(path))

    @abstractmethod
    def __iter__(self) -> Iterator[Document]: ...

    def rows(self) -> Iterator[Row]:
        """All rows, split after split or file after file.

        Raises:
            UserError: the hub cannot be read, or a file.
        """
        return self._of_hub() if self.files is None else self._of_files(self.files)

    def text_rows(self, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a text file: by default the whole file is one row."""
        yield "row 1", {self.fields["text"][0]: read_text(file)}

    def text(self, row: Row, word: str = "text") -> str:
        """A field of the row that must be there.

        Raises:
            UserError: it is missing or not text.
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
        needed = [name for names in self.fields.values() for joined in names for name in joined.split("/")]
        published = {file: self._published(files.name(file)) for file in files.files}
        whole = set(self._splits) <= set(published.values())
        for file in files.files:
            if whole and published[file] not in self._splits:
                continue
            rows = read_rows(file, needed) if file.name.endswith(ROWS) else self.text_rows(file)
            split = published[file] if whole else ""
            for number, (where, row) in enumerate(islice(rows, self._rows or None), start=1):
                name = f"{files.name(file)}:{number}" if file.name.endswith(ROWS) else files.name(file)
                yield Row(name, f"{file}, {where}", self._split(split, number), row)

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
            described = self.files.describe()
            return {**described, "parts": [{**part, "licence": self._options.licence} for part in described["parts"]]}
        part = {"name": self._found.name, "version": self._found.revision, "licence": self._options.licence}
        return {"what": "a data set of the hub", "parts": [part], "absent": []}

    def identity(self) -> Any:
        """The settings, and names and sizes of files, whose content can be many gigabytes, so it is not read for this.

        The commit is left out, so that a prepared corpus is still used after a change on the hub.
        """
        read = {"sets": self._options.sets} if self.files is None else {"files": self._sizes(self.files)}
        return {"fields": self.fields, "splits": self._splits, "rows": self._rows, **self.chosen(), **read}

    def chosen(self) -> dict[str, Any]:
        """Other options that determine the documents."""
        return {}

    def _sizes(self, files: Files) -> dict[str, int]:
        try:
            return {files.name(file): file.stat().st_size for file in files.files}
        except OSError as error:
            raise unreadable(Path(error.filename), error) from error


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
                continue
            text = self.text(row)
            # A character has at least one byte, so most texts need not be encoded to know this.
            if len(text) <= self._longer_than and len(text.encode("utf-8", "surrogatepass")) <= self._longer_than:
                continue
            title = self.value(row, "title")
            id = row.name if title is None else f"{row.name} {title}"
            label = label_field(row.values, self._label, where=row.where) if self._label else None
            yield Document(id, id, text, row.split, label=label)

    def _wanted(self, row: Row) -> bool:
        category = self.value(row, "category")
        first = category[0] if isinstance(category, list) and category else category
        return first is None or str(first).startswith(self._category)

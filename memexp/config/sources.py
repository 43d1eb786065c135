"""Options of `data.source`: where a corpus's documents come from, one schema for each class of `memexp.data.sources`.

`SOURCES` lists all sources, so a run folder of somebody else can name no other code. A new source is a schema here with an
entry of `SOURCES`, a class in `memexp/data/sources/`, and a case of `open_source`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from string import ascii_lowercase
from typing import Any, ClassVar

from memexp.config.field import UNSET, default_of, setting
from memexp.errors import UserError, did_you_mean

NO_LONGER = ("root",)
"""Options that older runs still have in their settings. They changed no document."""

_HIDDEN = re.compile(r"text (\d{1,9}) with a dollar sign")
"""What stands for a text with a dollar sign while OmegaConf checks types."""

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
"""Names and versions of packages, which go into the commands that fetch them."""


def class_name(name: str) -> Any:
    """The field that says which source the options are of; no other value is allowed."""
    target = f"memexp.data.sources.{name}"
    return setting(target, "the source's class", choices=(target,))


@dataclass
class SourceOptions:
    """Options that every source has."""

    reads_files: ClassVar[bool] = False
    """Whether the source can read files of the user's, those at `data.path`."""

    _target_: str = setting(UNSET, "the source's class")

    @property
    def has_new_words(self) -> bool:
        """Whether held-out documents of a task may have words that no training document has."""
        return False

    def check(self) -> None:
        """Refuse options that make no sense together; `memexp.config.checks` looks at each by itself.

        Raises:
            UserError: names the option at fault.
        """


def of_bad_rows() -> Any:
    """The field that says what becomes of rows that cannot be used."""
    return setting(
        "refuse",
        "rows that cannot be used, such as one without text: refuse: the first ends with an error; skip: they are left out, and "
        "counted in the manifest",
        choices=("refuse", "skip"),
        later=True,
    )


@dataclass
class FilesOptions(SourceOptions):
    """A user's own text: a file or a folder."""

    reads_files = True

    _target_: str = class_name("Files")
    suffixes: list[str] = setting(
        [], "endings of the files to take, such as .txt; empty: every file that is not hidden"
    )
    field: str = setting("text", "where a row's text stands, in JSON lines and Parquet files")
    label: str | None = setting(
        None, "where a row's class stands, for task=classify: text, a whole number, or true or false"
    )
    bad_rows: str = of_bad_rows()


@dataclass
class PythonPackagesOptions(SourceOptions):
    """Source code of installed Python packages."""

    _target_: str = class_name("PythonPackages")
    packages: list[str] = setting([], "names to import them by, of installed packages or of the standard library")
    standard_library: bool = setting(True, "add the whole standard library")
    cut_above: int = setting(
        1_600_000,
        "a larger package is cut into its sub-packages; those below 60,000 bytes stay with it",
        unit="bytes",
        low=0,
    )

    def check(self) -> None:
        if "memexp" in self.packages:
            raise UserError("data.source.packages names memexp; expected others, for its own code is no test of itself")


@dataclass
class Part:
    """A package, and what is taken of it."""

    client: str = setting("", "what fetches it", choices=("pip", "apt", "apt-source"))
    licence: str = setting("", "of the texts")
    attribution: str = setting("", "who wrote the texts")
    files: list[str] = setting([], "patterns of names below `folder`, in which * stands for folders too")
    format: str = setting(
        "text",
        "how texts stand in the files",
        choices=("text", "book", "html", "r_books", "bible", "wiki_markup", "wiki_text", "metamath"),
    )
    folder: str = setting("", "folder in the package; empty: its top", empty=True)
    without: list[str] = setting([], "patterns of names that are left out")
    group: str = setting(
        "",
        "a regular expression: its match in a document's name is the group, such as an author; empty: the whole name",
        empty=True,
    )
    join: int = setting(
        0,
        "consecutive texts of a group, or of the part if it has no groups, are joined until they have this length; 0: each "
        "stays as it is",
        unit="bytes",
        low=0,
    )
    version: str | None = setting(None, "with client=pip")
    sha256: str | None = setting(None, "of the archive, with client=pip")
    form: str = setting(
        "", "which of a registry's files; empty: the usual one", choices=("", "source", "linux"), empty=True
    )


@dataclass
class PackageTextsOptions(SourceOptions):
    """Documents in packages that pip or apt fetch."""

    _target_: str = class_name("PackageTexts")
    what: str = setting(UNSET, "the corpus in one line, for people")
    parts: dict[str, Part] = setting({}, "what is taken of each package, by the package's name")

    def check(self) -> None:
        for name, part in self.parts.items():
            where = f"data.source.parts.{name}"
            for key in ("licence", "attribution", "files"):
                if not getattr(part, key):
                    raise UserError(f"{where} has no {key}; expected one, as in the other parts")
            pinned = [value for value in (part.version, part.sha256) if value is not None]
            if len(pinned) != (2 if part.client == "pip" else 0):
                raise UserError(
                    f"{where} has version={part.version} and sha256={part.sha256}; expected both with client=pip, whose "
                    "registry has many, and none with Debian's, which has one version and signs it"
                )
            for value in (name, *pinned):
                if not PLAIN.fullmatch(value):
                    raise UserError(
                        f"{where} has {value!r}; expected letters, digits, '.', '+' and '-' in names and versions"
                    )


@dataclass
class PublishedOptions(SourceOptions):
    """Options of every published data set."""

    reads_files = True
    needed: ClassVar[tuple[str, ...]] = ("text",)
    """What `fields` must name."""

    sets: list[dict[str, Any]] = setting(
        UNSET, "data sets of the hub, tried in this order: for each what datasets.load_dataset takes"
    )
    fields: dict[str, list[str]] = setting(
        UNSET, "what is needed of a row, each with the names it may have, tried in this order; a/b is two, joined"
    )
    licence: str = setting(UNSET, "of the texts")
    instead: str = setting(UNSET, "data= of a similar corpus that needs no hub, with the settings that it needs")
    bad_rows: str = of_bad_rows()

    def check(self) -> None:
        for word in self.needed:
            if not self.fields.get(word):
                raise UserError(
                    f"data.source.fields names no {word}; expected the names that it may have in a row, in a list"
                )


@dataclass
class TextsOptions(PublishedOptions):
    """A published data set with a document in each row."""

    _target_: str = class_name("Texts")
    suffixes: list[str] = setting([".txt"], "endings of the files on disk that are texts themselves")
    splits: dict[str, list[str]] = setting(
        {}, "published splits, and for each the splits here that its rows go to in turn; empty: as published"
    )
    rows: int = setting(0, "how many are read of each split or file, its first; 0: all", unit="rows", low=0)
    longer_than: int = setting(0, "documents of as many bytes or fewer are left out", unit="bytes", low=0)
    category: str = setting(
        "",
        "only rows whose category, the first of several, begins with this, or that have none; empty: all",
        empty=True,
    )
    label: str | None = setting(None, "where a row's class stands, for task=classify")


@dataclass
class ArticlesOptions(PublishedOptions):
    """WikiText, an article a document."""

    _target_: str = class_name("Articles")


@dataclass
class PiecesOptions(PublishedOptions):
    """A text of a known size, cut into documents of equal length."""

    _target_: str = class_name("Pieces")
    size: int = setting(100_000_000, "length that the text must have", unit="bytes", low=1)
    piece: int = setting(1_000_000, "length of a document; the last of a split may be shorter", unit="bytes", low=1)


@dataclass
class RepositoriesOptions(PublishedOptions):
    """GitHub, a repository a document."""

    needed = ("text", "repository", "path")

    _target_: str = class_name("Repositories")
    suffixes: list[str] = setting([], "endings of the files on disk to take; empty: only files of rows")
    seed: int = setting(0, "of the order of files and folders", low=0)
    share: float = setting(
        1.0, "share of the repositories that is taken, chosen by their names; above 0", low=0.0, high=1.0
    )

    def check(self) -> None:
        super().check()
        if self.share == 0:
            raise UserError("data.source.share is 0; expected more than that, and 1 at most")


@dataclass
class TheoriesOptions(PublishedOptions):
    """Isabelle, an entry of the Archive of Formal Proofs a document."""

    needed = ("text", "repository", "path")

    _target_: str = class_name("Theories")


@dataclass
class TaskOptions(SourceOptions):
    """Options of every algorithmic task."""

    documents: list[int] = setting(
        UNSET, "how many are drawn for training, validation and test", unit="documents", low=1
    )
    seed: int = setting(0, "of what is drawn", low=0)

    @property
    def together(self) -> int:
        """Words of the longest part of a document that says one thing to remember; 0 if that has no length of its own."""
        return 0

    def check(self) -> None:
        if len(self.documents) != 3:
            raise UserError(
                f"data.source.documents is {self.documents}; expected three numbers, for training, validation and test"
            )


@dataclass
class EchoOptions(TaskOptions):
    """Options of the tasks that say a source of symbols again."""

    lengths: list[int] = setting(UNSET, "symbols of a source; every document draws one of these", unit="symbols", low=1)

    def check(self) -> None:
        super().check()
        _refuse_empty("lengths", self.lengths)


@dataclass
class CopyOptions(EchoOptions):
    """Say the source twice."""

    _target_: str = class_name("Copy")


@dataclass
class ReverseOptions(EchoOptions):
    """Say the source backwards."""

    _target_: str = class_name("Reverse")


@dataclass
class RetrievalOptions(TaskOptions):
    """Say the digit that stood after a letter."""

    _target_: str = class_name("Retrieval")
    pairs: list[int] = setting(UNSET, "numbers of pairs; every document draws one of these", low=1)

    def check(self) -> None:
        super().check()
        _refuse_empty("pairs", self.pairs)
        if max(self.pairs) > len(ascii_lowercase):
            raise UserError(
                f"data.source.pairs is {self.pairs}; expected {len(ascii_lowercase)} at most, for each pair has a letter of "
                "its own"
            )


@dataclass
class EquationsOptions(TaskOptions):
    """Say the roots of a quadratic equation."""

    _target_: str = class_name("Equations")


@dataclass
class MqarOptions(TaskOptions):
    """Say the value of every key that comes again."""

    _target_: str = class_name("Mqar")
    pairs: list[int] = setting(UNSET, "numbers of pairs; every document draws one of these", low=1)
    length: int = setting(UNSET, "inputs of a document", unit="tokens", low=1)
    vocabulary: int = setting(UNSET, "words: `.`, and keys and values in equal parts", low=1)

    def check(self) -> None:
        super().check()
        _refuse_empty("pairs", self.pairs)
        if max(self.pairs) > (self.vocabulary - 1) // 2:
            raise UserError(
                f"data.source.vocabulary is {self.vocabulary} but data.source.pairs {self.pairs}; expected a vocabulary of "
                f"{2 * max(self.pairs) + 1} at least, for all keys and values of a document are different"
            )
        if self.length < 4 * max(self.pairs):
            raise UserError(
                f"data.source.length is {self.length} but data.source.pairs {self.pairs}; expected a length of "
                f"{4 * max(self.pairs)} at least, for every key stands twice with its value"
            )


@dataclass
class WrittenOptions(TaskOptions):
    """Options of the tasks that write pairs of a key and a value and ask for one."""

    pairs: list[int] = setting(UNSET, "numbers of pairs; every document draws one of these", low=1)
    test_pairs: list[int] = setting([], "of test documents; empty: as pairs", low=1)
    key: int = setting(1, "length of a key; there are 16 symbols", unit="symbols", low=1, high=8)
    value: int = setting(1, "length of a value", unit="symbols", low=1, high=64)

    @property
    def together(self) -> int:
        """A pair with its two marks."""
        return self.key + self.value + 2

    def check(self) -> None:
        super().check()
        _refuse_empty("pairs", self.pairs)


@dataclass
class RememberOptions(WrittenOptions):
    """Say the value of one of many different keys."""

    _target_: str = class_name("Remember")

    def check(self) -> None:
        super().check()
        for name in ("pairs", "test_pairs"):
            if max(asked := getattr(self, name), default=0) > 16**self.key:
                raise UserError(
                    f"data.source.{name} is {asked} but data.source.key {self.key}; expected at most {16**self.key:,} pairs, for all "
                    "keys of a document are different. Longer keys allow more"
                )


@dataclass
class RewriteOptions(WrittenOptions):
    """Say the value that a key was given last."""

    _target_: str = class_name("Rewrite")


@dataclass
class LongOptions(TaskOptions):
    """Options of the tasks that hide what is asked for in a long text."""

    lengths: list[int] = setting(UNSET, "inputs of a document; every document draws one of these", unit="words", low=1)
    test_lengths: list[int] = setting([], "of test documents; empty: as lengths", unit="words", low=1)

    def check(self) -> None:
        super().check()
        _refuse_empty("lengths", self.lengths)


@dataclass
class HiddenOptions(LongOptions):
    """Options of the tasks that hide numbers in a text of no use."""

    depths: list[int] = setting(
        [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
        "where in the text a number is hidden; every number draws one of these. 0: at the start",
        unit="percent",
        low=0,
        high=100,
    )
    digits: int = setting(UNSET, "of a number", low=1, high=64)

    def check(self) -> None:
        super().check()
        if not self.depths:
            raise UserError("data.source.depths is []; expected a list of whole numbers from 0 to 100, such as [50]")


@dataclass
class PasskeyOptions(HiddenOptions):
    """Say the number that is hidden in a text."""

    _target_: str = class_name("Passkey")

    @property
    def together(self) -> int:
        """The sentences with the number, which say it twice."""
        return 13 + 2 * self.digits


@dataclass
class NeedleOptions(HiddenOptions):
    """Say numbers that are hidden in a text, each under a name."""

    _target_: str = class_name("Needle")
    haystack: str = setting(
        "filler",
        "the text around: filler: five sentences again and again; needles: numbers under other names",
        choices=("filler", "needles"),
    )
    names: int = setting(1, "names that have numbers, besides those of the haystack", low=1, high=1000)
    values: int = setting(1, "numbers of each name", low=1, high=100)
    queries: int = setting(1, "names that are asked for", low=1, high=1000)

    @property
    def together(self) -> int:
        """A sentence with a number."""
        return 7 + self.digits

    def check(self) -> None:
        super().check()
        if self.queries > self.names:
            raise UserError(
                f"data.source.queries is {self.queries} but data.source.names {self.names}; expected at most as many queries as names"
            )


@dataclass
class BabiOptions(LongOptions):
    """Answer a question about a story of people, places and things, told between other sentences."""

    reads_files = True

    _target_: str = class_name("Babi")
    question: str = setting(
        UNSET,
        "qa1: where a person is; qa2: where a thing is; qa3: where a thing was before; qa4: what is north, south, east or west of a "
        "place; qa5: who gave what to whom",
        choices=("qa1", "qa2", "qa3", "qa4", "qa5"),
    )
    noise: str = setting(
        "sentences",
        "what stands between the facts: none: nothing, and a document is as long as its facts; sentences: of other people, places and "
        "things; text: sentences of the prepared corpus whose folder is data.path",
        choices=("none", "sentences", "text"),
    )

    @property
    def has_new_words(self) -> bool:
        """Those of the text."""
        return self.noise == "text"


def _refuse_empty(name: str, numbers: list[int]) -> None:
    if not numbers:
        raise UserError(f"data.source.{name} is []; expected a list of whole numbers from 1 on, such as [24]")


SOURCES: dict[str, type[SourceOptions]] = {
    "files": FilesOptions, "python_packages": PythonPackagesOptions, "package_texts": PackageTextsOptions,
    "texts": TextsOptions, "articles": ArticlesOptions, "pieces": PiecesOptions, "repositories": RepositoriesOptions,
    "theories": TheoriesOptions, "copy": CopyOptions, "reverse": ReverseOptions, "retrieval": RetrievalOptions,
    "equations": EquationsOptions, "mqar": MqarOptions,
    "remember": RememberOptions, "rewrite": RewriteOptions, "passkey": PasskeyOptions, "needle": NeedleOptions,
    "babi": BabiOptions,
}  # fmt: skip
"""Schema of each source, by the name that the defaults list of a `conf/data` file gives: `base_texts`."""

TARGETS: dict[str, type[SourceOptions]] = {
    default_of(schema.__dataclass_fields__["_target_"]): schema for schema in SOURCES.values()
}
"""Schemas of sources by the name of their class."""


def read_source(given: Mapping[str, Any]) -> SourceOptions:
    """The options that a run folder holds, as the schema of their source.

    Raises:
        UserError: there is no such source, it has no such option, or a value is of another type.
    """
    from omegaconf.errors import OmegaConfBaseException

    target = given.get("_target_") if isinstance(given, Mapping) else None
    if not isinstance(target, str) or target not in TARGETS:
        raise UserError(
            f"data.source._target_ is {target!r}; expected one of {', '.join(TARGETS)}{did_you_mean(str(target), TARGETS)}"
        )
    schema = TARGETS[target]
    options = {name: value for name, value in given.items() if name not in NO_LONGER}
    _refuse_unknown(options, schema, "data.source")
    if isinstance(parts := options.get("parts"), Mapping):
        for name, part in parts.items():
            _refuse_unknown(part, Part, f"data.source.parts.{name}")
    try:
        source = filled(schema, options)
    except OmegaConfBaseException as error:
        where = f"data.source.{error.full_key}" if error.full_key else "data.source"
        raise UserError(f"{where}: {str(error).splitlines()[0]}; expected what `memexp prepare --help` says") from error
    assert isinstance(source, SourceOptions)
    return source


def filled(schema: Any, content: Mapping[str, Any]) -> Any:
    """An instance of the schema with the values of a file.

    Every text is kept as it stands. OmegaConf never sees a text with an interpolation, which could read the environment.

    Args:
        schema: an instance of a schema, with the defaults.

    Raises:
        OmegaConfBaseException: there is no such setting, or a value is of another type.
    """
    from omegaconf import OmegaConf

    texts: list[str] = []

    def hidden(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: hidden(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [hidden(inner) for inner in value]
        if not isinstance(value, str) or ("$" not in value and not _HIDDEN.fullmatch(value)):
            return value
        texts.append(value)
        return f"text {len(texts) - 1} with a dollar sign"

    def shown(value: Any) -> Any:
        if is_dataclass(value):
            for item in fields(value):
                setattr(value, item.name, shown(getattr(value, item.name)))
        elif isinstance(value, dict):
            return {key: shown(inner) for key, inner in value.items()}
        elif isinstance(value, list):
            return [shown(inner) for inner in value]
        elif isinstance(value, str) and (match := _HIDDEN.fullmatch(value)) and int(match[1]) < len(texts):
            return texts[int(match[1])]
        return value

    return shown(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), hidden(content))))


def _refuse_unknown(options: Any, schema: Any, where: str) -> None:
    known = [item.name for item in fields(schema)]
    for name in options if isinstance(options, Mapping) else ():
        if name not in known:
            listed = ", ".join(word for word in known if word != "_target_")
            raise UserError(f"there is no setting {where}.{name}; expected one of {listed}{did_you_mean(name, known)}")

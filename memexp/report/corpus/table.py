"""The list of corpora: those that the configuration names, prepared or not, and all other prepared corpora."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.config.introspection import choices_of, description_of, origin_of
from memexp.data.catalogue import tokens_on_page
from memexp.data.manifest import is_cut, read_manifest, tokenizer_name
from memexp.data.splits import SPLITS
from memexp.errors import UserError
from memexp.files import folders_with, unreadable
from memexp.report.escape import Fitting, escape
from memexp.wording import whole

if TYPE_CHECKING:
    from rich.console import RenderableType

_LICENCES = 4
"""How many licences the list names; it names those of most parts."""


@dataclass
class Listed:
    """One line of the list: a prepared folder, or a name without a prepared folder.

    Attributes:
        tokenizer: kind and vocabulary of the tokenizer.
        cut: whether documents were cut by bytes, so that each split has a part of them.
        documents, tokens: totals over all splits.
        about: tokens where it was prepared elsewhere, as the committed page says; only of a corpus that is not prepared here.
        disk: bytes of the folder.
        licences: licences of its parts, the most frequent first.
        origin: where its documents come from.
        what: what its documents are.
        problem: why the folder cannot be read; empty if it can.
    """

    name: str
    state: str
    tokenizer: str = ""
    cut: bool = False
    documents: int | None = None
    tokens: int | None = None
    about: str = ""
    disk: int | None = None
    licences: Sequence[str] = ()
    origin: str = ""
    what: str = ""
    problem: str = ""


def list_corpora(root: Path, names: Iterable[str]) -> list[Listed]:
    """A line for each prepared folder below `root`, and for each of `names` without such a folder; sorted by name.

    Nothing is asked of a network: sizes are those of the folders, or those that the committed page has.
    """
    elsewhere, choices = tokens_on_page(root / "data"), choices_of("data")
    folders = [path for path in folders_with(root / "data", "manifest.json") if not path.name.startswith(".")]
    prepared = [_read(folder) for folder in folders]
    known = {item.name for item in prepared}
    missing = [Listed(name, "not prepared", about=elsewhere.get(name, "")) for name in names if name not in known]
    for item in [*prepared, *missing]:
        if item.name in choices:
            item.origin, item.what = origin_of(item.name), description_of("data", item.name)
    return sorted([*prepared, *missing], key=_order)


def _order(item: Listed) -> tuple[str, str]:
    return (item.name, item.tokenizer)


def _read(folder: Path) -> Listed:
    disk = None
    try:
        disk = sum(file.stat().st_size for file in folder.iterdir())
        manifest = read_manifest(folder)
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else unreadable(folder, error, expected="a prepared corpus")
        return Listed(folder.name, "damaged", disk=disk, problem=str(told))
    splits = [manifest["splits"][split] for split in SPLITS]
    return Listed(
        name=str(manifest["name"]),
        state="prepared",
        tokenizer=tokenizer_name(manifest),
        cut=is_cut(manifest),
        documents=sum(int(split["documents"]) for split in splits),
        tokens=sum(int(split["tokens"]) for split in splits),
        disk=disk,
        licences=_licences(manifest["source"]["parts"]),
    )


def _licences(parts: Sequence[dict[str, Any]]) -> list[str]:
    count: dict[str, int] = {}
    for part in parts:
        count[part["licence"]] = count.get(part["licence"], 0) + 1
    return sorted(count, key=lambda name: (-count[name], name))


def corpora_table(listed: Sequence[Listed]) -> "RenderableType":
    """The list for a terminal; what is unknown until a corpus is prepared is left empty."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    table.add_column("data", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("tokenizer", no_wrap=True)
    for heading in ("documents", "tokens", "MB on disk"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("origin", "what", "licence"):
        table.add_column(heading, overflow="fold")
    styles = {"prepared": "green", "damaged": "red"}
    for item in listed:
        table.add_row(
            Text(escape(item.name) + (" (cut by bytes)" if item.cut else "")),
            Text(item.state, style=styles.get(item.state, "dim")),
            item.tokenizer,
            _known(item.documents),
            _known(item.tokens) or (f"about {item.about.partition(' ')[0]}" if item.about else ""),
            "" if item.disk is None else f"{item.disk / 1e6:,.1f}",
            Text(escape(item.origin)),
            Text(escape(item.what)),
            Text(escape(_shown(item.licences))),
        )
    below = [Text(escape(item.problem), style="red") for item in listed if item.problem]
    if any(item.about for item in listed):
        below.append(
            Text(
                "about: as prepared for data/README.md, with other versions of packages it can be a little more or less"
            )
        )
    return Group(Fitting(table), *below)


def _known(count: int | None) -> str:
    return "" if count is None else whole(count)


def _shown(licences: Sequence[str]) -> str:
    more = len(licences) - _LICENCES
    return "; ".join(licences[:_LICENCES]) + (f" and {more} more" if more > 0 else "")

"""The list of corpora: those that the configuration names, prepared or not, and all other prepared corpora."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.data.manifest import is_cut, read_manifest, tokenizer_name
from memexp.data.splits import SPLITS
from memexp.errors import UserError
from memexp.report.escape import Fitting, escape
from memexp.wording import UNKNOWN, whole

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
        disk: bytes of the folder.
        licences: licences of its parts, the most frequent first.
        problem: why the folder cannot be read; empty if it can.
    """

    name: str
    state: str
    tokenizer: str = ""
    cut: bool = False
    documents: int | None = None
    tokens: int | None = None
    disk: int | None = None
    licences: Sequence[str] = ()
    problem: str = ""


def list_corpora(root: Path, names: Iterable[str]) -> list[Listed]:
    """A line for each prepared folder below `root`, and for each of `names` without such a folder; sorted by name."""
    folders = sorted(path.parent for path in (root / "data").glob("[!.]*/manifest.json"))
    prepared = [_read(folder) for folder in folders]
    known = {item.name for item in prepared}
    return sorted([*prepared, *(Listed(name, "not prepared") for name in names if name not in known)], key=_order)


def _order(item: Listed) -> tuple[str, str]:
    return (item.name, item.tokenizer)


def _read(folder: Path) -> Listed:
    disk = sum(file.stat().st_size for file in folder.iterdir())
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return Listed(folder.name, "damaged", disk=disk, problem=str(error))
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
    """The list for a terminal; a dash stands for what is unknown until a corpus is prepared."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    table.add_column("data", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("tokenizer", no_wrap=True)
    for heading in ("documents", "tokens", "MB on disk"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("licence", overflow="fold")
    styles = {"prepared": "green", "damaged": "red"}
    for item in listed:
        table.add_row(
            Text(escape(item.name) + (" (cut by bytes)" if item.cut else "")),
            Text(item.state, style=styles.get(item.state, "dim")),
            item.tokenizer or UNKNOWN,
            whole(item.documents),
            whole(item.tokens),
            UNKNOWN if item.disk is None else f"{item.disk / 1e6:,.1f}",
            Text(escape(_shown(item.licences))),
        )
    return Group(Fitting(table), *(Text(escape(item.problem), style="red") for item in listed if item.problem))


def _shown(licences: Sequence[str]) -> str:
    more = len(licences) - _LICENCES
    return "; ".join(licences[:_LICENCES]) + (f" and {more} more" if more > 0 else "") or UNKNOWN

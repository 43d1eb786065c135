"""The table of corpora in data/README.md, made from the manifests of the corpora that are prepared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memexp.data.manifest import read_manifest, tokenizer_name
from memexp.data.splits import SPLITS
from memexp.errors import UserError
from memexp.files import fingerprint, write_text

BEGIN = "<!-- corpora: kept by `memexp data list page=true` from the manifests, so do not edit -->"
END = "<!-- end of corpora -->"

HEADINGS = ("`data=`", "source", "licence", "documents: train / valid / test", "MB of text", "tokens", "seconds")

FEW = 6
"""The number of licences that a row names."""


def update_page(data: Path, configured: Mapping[str, dict[str, Any]]) -> Path:
    """Bring the table in data/README.md up to date.

    A row stays as it is if its corpus is not prepared here, or only with other settings. Seconds always stay, for they would
    differ each time.

    Args:
        configured: what determines each corpus with its default settings, by its name.

    Raises:
        UserError: there is no such table.
    """
    page = data / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(
            f"{page} has no table of corpora; expected a table between {BEGIN} and {END}. Likely cause: the root is not a "
            "checkout of memexp"
        )
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| `")}
    rows.pop(HEADINGS[0], None)
    for name, manifests in _prepared(data, configured).items():
        rows[f"`{name}`"] = _row(name, manifests, rows.get(f"`{name}`"))
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += [rows[name] for name in sorted(rows, key=lambda name: name.strip("`"))]
    new = "\n".join([before + begin, *lines, end + after])
    if new != text:
        write_text(page, new)
    return page


def tokens_on_page(data: Path) -> dict[str, str]:
    """The tokens of each corpus by the table of data/README.md, such as 6,898,779 (bpe 1,024); empty without such a page."""
    page = data / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    cells = [row.split("|") for row in text.partition(BEGIN)[2].partition(END)[0].splitlines() if row.startswith("| `")]
    return {
        row[1].strip(" `"): row[6].strip()
        for row in cells
        if len(row) == len(HEADINGS) + 2 and row[6].strip()[:1].isdigit()
    }


def _prepared(data: Path, configured: Mapping[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The manifests of each corpus that is prepared with its default settings, but for the tokenizer; the newest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(data.glob("[!.]*/manifest.json"), key=lambda path: (path.stat().st_mtime, path), reverse=True):
        try:
            manifest = read_manifest(path.parent)
        except UserError:  # `memexp data list` names it
            continue
        name = manifest["name"]
        if name in configured and _texts(manifest["settings"]) == _texts(configured[name]):
            found.setdefault(name, []).append(manifest)
    return found


def _texts(settings: dict[str, Any]) -> str:
    """A hash of what determines the texts and their splits."""
    return fingerprint({key: value for key, value in settings.items() if key != "tokenizer"})


def _row(name: str, manifests: list[dict[str, Any]], standing: str | None) -> str:
    """The row of a corpus, with its number of tokens in each of the manifests.

    Args:
        standing: the row in the present table.
    """
    last = manifests[0]
    licences = list(dict.fromkeys(part["licence"] for part in last["source"]["parts"]))
    licence = "; ".join(licences[:FEW]) + (f" and {len(licences) - FEW} more" if len(licences) > FEW else "")
    splits = [last["splits"][split] for split in SPLITS]
    megabytes = sum(split["bytes"] for split in splits) / 1e6
    tokens = {
        f"{sum(manifest['splits'][split]['tokens'] for split in SPLITS):,} ({tokenizer_name(manifest)})"
        for manifest in manifests
    }
    cells = (
        f"`{name}`",
        last["source"]["what"],
        licence or "none",
        " / ".join(f"{split['documents']:,}" for split in splits),
        f"{megabytes:.1f}",
        ", ".join(sorted(tokens)),
    )
    seconds = f" {last['seconds']:.3g} " if standing is None else standing.rsplit("|", 2)[1]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + f" |{seconds}|"

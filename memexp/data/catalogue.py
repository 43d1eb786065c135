"""The table of corpora on the page of data/, kept from the manifests of what was prepared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memexp.data.splits import SPLITS
from memexp.files import read_json, write_text

BEGIN = "<!-- corpora: kept by `memexp prepare` from the manifests, so do not edit -->"
END = "<!-- end of corpora -->"

HEADINGS = ("`data=`", "source", "licence", "documents: train / valid / test", "MB of text", "tokens", "seconds")

FEW = 6
"""Licences that a row names."""


def update_page(data: Path) -> None:
    """Bring the rows of the table in data/README.md up to date; those of corpora that are not prepared here stay.

    Only a checkout has that page, with the two marks that the table stands between; elsewhere nothing happens.
    """
    page = data / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        return
    there = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| `")}
    there.pop(HEADINGS[0], None)
    rows = there | {f"`{name}`": _row(name, manifests) for name, manifests in _prepared(data)}
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += [rows[name] for name in sorted(rows, key=lambda name: name.strip("`"))]
    new = "\n".join([before + begin, *lines, end + after])
    if new != text:
        write_text(page, new)


def _prepared(data: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each corpus that is not of a user's own files: the manifest made last, and those that differ in the tokenizer only."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(data.glob("[!.]*/manifest.json"), key=lambda path: (path.stat().st_mtime, path), reverse=True):
        manifest = read_json(path)
        if "files" not in manifest["source"]:
            by_name.setdefault(manifest["name"], []).append(manifest)
    for name, manifests in by_name.items():
        texts = _apart_from_tokens(manifests[0])
        yield name, [manifest for manifest in manifests if _apart_from_tokens(manifest) == texts]


def _apart_from_tokens(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest["settings"].items() if key != "tokenizer"}


def _row(name: str, manifests: list[dict[str, Any]]) -> str:
    """The row of a corpus, its tokens as each of the manifests has them."""
    last = manifests[0]
    licences = list(dict.fromkeys(part["licence"] for part in last["source"]["parts"]))
    licence = "; ".join(licences[:FEW]) + (f" and {len(licences) - FEW} more" if len(licences) > FEW else "")
    splits = [last["splits"][split] for split in SPLITS]
    megabytes = sum(split["bytes"] for split in splits) / 1e6
    tokens = {
        f"{sum(manifest['splits'][split]['tokens'] for split in SPLITS):,} ({_tokenizer(manifest)})"
        for manifest in manifests
    }
    cells = (
        f"`{name}`",
        last["source"]["what"],
        licence or "none",
        " / ".join(f"{split['documents']:,}" for split in splits),
        f"{megabytes:.1f}",
        ", ".join(sorted(tokens)),
        f"{last['seconds']:.3g}",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _tokenizer(manifest: dict[str, Any]) -> str:
    tokenizer = manifest["tokenizer"]
    kind = str(tokenizer["kind"])
    return kind if kind in ("bytes", "words") else f"{tokenizer['vocabulary']:,} {kind}"

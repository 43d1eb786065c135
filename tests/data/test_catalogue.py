"""The table of data/README.md."""

import os
from collections.abc import Callable
from pathlib import Path

from memexp.config import Data, Tokenizer
from memexp.data import catalogue
from memexp.data.corpus import prepare

STDLIB = {
    "_target_": "memexp.data.sources.PythonPackages",
    "standard_library": False,
    "packages": ["json", "csv", "html"],
}
OTHER = "| `other` | a corpus of | another machine | 1 / 1 / 1 | 0.1 | 9 (bytes) | 3 |"


def page(root: Path, table: str = "") -> Path:
    path = root / "data" / "README.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# Corpora\n\nProse.\n\n{catalogue.BEGIN}\n{table}{catalogue.END}\n\nMore | prose.\n")
    return path


def corpus(name: str, tokenizer: Tokenizer, **changes: int) -> Data:
    return Data(name=name, source=STDLIB, tokenizer=tokenizer, valid_documents=1, test_documents=1, **changes)


def rows(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("| `")]


def test_a_row_a_corpus_and_the_prose_stays(tmp_path: Path) -> None:
    path = page(tmp_path, f"| old headings |\n|---|\n{OTHER}\n| `zeta` | made anew | | | | | |\n")
    prepare(corpus("zeta", Tokenizer(kind="bytes")), tmp_path)
    small = prepare(corpus("zeta", Tokenizer(vocabulary=400)), tmp_path)
    catalogue.update_page(tmp_path / "data")
    headings, other, zeta = rows(path)
    assert headings.count("|") == other.count("|") == zeta.count("|") == 8 and other == OTHER
    splits = small.manifest["splits"].values()
    tokens, size = (sum(split[key] for split in splits) for key in ("tokens", "bytes"))
    assert zeta.startswith("| `zeta` | sources of installed Python packages | PSF-2.0 | 1 / 1 / 1 | ")
    both = ", ".join(sorted([f"{size:,} (bytes)", f"{tokens:,} (400 bpe)"]))
    assert zeta.rpartition(" | ")[0].endswith(f" | {size / 1e6:.1f} | {both}")
    text = path.read_text()
    assert text.startswith(f"# Corpora\n\nProse.\n\n{catalogue.BEGIN}\n| `data=`") and text.endswith("More | prose.\n")
    before = path.stat().st_mtime_ns, text
    catalogue.update_page(tmp_path / "data")
    assert (path.stat().st_mtime_ns, path.read_text()) == before


def test_the_one_made_last_counts(tmp_path: Path) -> None:
    path = page(tmp_path)
    first = prepare(corpus("zeta", Tokenizer(kind="bytes"), min_document=1), tmp_path)
    catalogue.update_page(tmp_path / "data")
    (_, before) = rows(path)
    os.utime(first.path / "manifest.json", (1, 1))
    prepare(corpus("zeta", Tokenizer(vocabulary=400), min_document=2), tmp_path)
    catalogue.update_page(tmp_path / "data")
    (_, after) = rows(path)
    assert "(bytes)" in before and "(bytes)" not in after and "(400 bpe)" in after


def test_own_files_are_not_told_and_other_pages_not_touched(
    tmp_path: Path, folder: Path, text_data: Callable[..., Data]
) -> None:
    path = page(tmp_path)
    prepare(text_data(folder), tmp_path)
    catalogue.update_page(tmp_path / "data")
    assert [row.split("|")[1] for row in rows(path)] == [" `data=` "]
    path.write_text("# A page without marks\n")
    catalogue.update_page(tmp_path / "data")
    assert path.read_text() == "# A page without marks\n"
    path.unlink()
    catalogue.update_page(tmp_path / "data")
    assert not path.exists()

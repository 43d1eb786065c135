"""The table of data/README.md."""

import json
from pathlib import Path

import pytest

from memexp.cli.main import main
from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import PythonPackagesOptions
from memexp.data import catalogue
from memexp.data.library import prepare, settings_of
from memexp.data.manifest import tokenizer_name
from memexp.errors import UserError

from ..messages import says

STDLIB = PythonPackagesOptions(packages=["json", "csv", "html"], standard_library=False)
OTHER = "| `other` | a corpus of | another machine | 1 / 1 / 1 | 0.1 | 9 (bytes) | 3 |"


def page(root: Path, table: str = "") -> Path:
    path = root / "data" / "README.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# Corpora\n\nProse.\n\n{catalogue.BEGIN}\n{table}{catalogue.END}\n\nMore | prose.\n")
    return path


def corpus(tokenizer: Tokenizer | None = None, **changes: int) -> Data:
    tokenizer = tokenizer or Tokenizer(kind="bytes")
    return Data(name="zeta", source=STDLIB, tokenizer=tokenizer, valid_documents=1, test_documents=1, **changes)


def update(root: Path) -> None:
    catalogue.update_page(root / "data", dict.fromkeys(("zeta", "absent"), settings_of(corpus(), root)))


def rows(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("| `")]


def test_a_row_a_corpus_and_the_prose_stays(tmp_path: Path) -> None:
    path = page(tmp_path, f"| old headings |\n|---|\n{OTHER}\n| `zeta` | made anew | | | | | |\n")
    prepare(corpus(), tmp_path)
    small = prepare(corpus(Tokenizer(vocabulary=400)), tmp_path)
    update(tmp_path)
    headings, other, zeta = rows(path)
    assert headings.count("|") == other.count("|") == zeta.count("|") == 8
    assert other == OTHER
    splits = small.manifest["splits"].values()
    tokens, size = (sum(split[key] for split in splits) for key in ("tokens", "bytes"))
    assert zeta.startswith("| `zeta` | sources of installed Python packages | PSF-2.0 | 1 / 1 / 1 | ")
    both = ", ".join(sorted([f"{size:,} (bytes)", f"{tokens:,} (bpe 400)"]))
    assert zeta.endswith(f" | {size / 1e6:.1f} | {both} | |")
    text = path.read_text()
    assert text.startswith(f"# Corpora\n\nProse.\n\n{catalogue.BEGIN}\n| `data=`")
    assert text.endswith("More | prose.\n")
    before = path.stat().st_mtime_ns, text
    update(tmp_path)
    assert (path.stat().st_mtime_ns, path.read_text()) == before


def test_seconds_are_of_the_first_time(tmp_path: Path) -> None:
    path = page(tmp_path)
    manifest = prepare(corpus(), tmp_path).path / "manifest.json"
    update(tmp_path)
    (_, before) = rows(path)
    assert before.endswith(f"| {json.loads(manifest.read_text())['seconds']:.3g} |")
    path.write_text(path.read_text().replace(before, before.rpartition(" | ")[0] + " | 77 |"))
    update(tmp_path)
    assert rows(path)[1].endswith("| 77 |")


def test_other_settings_and_what_is_damaged_are_passed_over(tmp_path: Path) -> None:
    standing = "| `zeta` | of the page | | | | | 7 |"
    path = page(tmp_path, f"{standing}\n")
    prepare(corpus(min_document=2), tmp_path)
    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "data" / "mine" / "manifest.json").write_text('{"name": "zeta"}')
    update(tmp_path)
    assert rows(path)[1:] == [standing]
    damaged = prepare(corpus(), tmp_path).path / "manifest.json"
    damaged.write_text(damaged.read_text().replace("sources of", "source of"))
    update(tmp_path)
    assert rows(path)[1:] == [standing]


def test_without_the_table_it_is_refused(tmp_path: Path) -> None:
    path = page(tmp_path)
    path.write_text("# A page without marks\n")
    with pytest.raises(UserError, check=says(str(path), "no table of corpora")):
        update(tmp_path)
    assert path.read_text() == "# A page without marks\n"
    path.unlink()
    with pytest.raises(UserError, check=says(str(path), "no table of corpora")):
        update(tmp_path)


def test_on_the_command_line_and_never_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = page(tmp_path)
    assert main(["prepare", "data=tiny", "data.tokenizer.kind=bytes", f"root={tmp_path}"]) == 0
    assert main(["data", "list", f"root={tmp_path}"]) == 0
    assert not rows(path)
    (tmp_path / "own.txt").write_text("a text")
    (tmp_path / "data" / "text-bytes-00000000").mkdir()
    (tmp_path / "data" / "text-bytes-00000000" / "manifest.json").write_text("{}")
    capsys.readouterr()
    assert main(["data", "list", "page=true", f"root={tmp_path}"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{path} is up to date\n")
    assert [row.split("|")[1] for row in rows(path)] == [" `data=` ", " `tiny` "]


def test_a_loaded_tokenizer_has_its_file_s_name(tmp_path: Path) -> None:
    trained = prepare(corpus(Tokenizer(vocabulary=400)), tmp_path)
    (trained.path / "tokenizer.model").rename(tmp_path / "mine.model")
    loaded = prepare(corpus(Tokenizer(path=str(tmp_path / "mine.model"))), tmp_path)
    assert [tokenizer_name(each.manifest) for each in (trained, loaded)] == ["bpe 400", "mine 400"]

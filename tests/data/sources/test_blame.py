"""A message names the setting that was changed, and not another."""

import json
import random
from pathlib import Path

import pytest

from memexp.cli.main import main

from ...messages import says

SIZES = [*range(100, 700, 50)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve rows, as every source reads them, with a category and a class."""
    draw = random.Random(0)
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = [
        {
            "text": "".join(draw.choices("abcdefgh \n", k=size)), "repository_name": f"owner/{size}", "path": "a.py",
            "categories": "cs.LG", "kind": "a",
        }
        for size in SIZES
    ]  # fmt: skip
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


BASE = {
    "text": "data=text data.valid_documents=2 data.test_documents=2",
    "c4": "data=c4_4k data.source.longer_than=0 data.valid_documents=2 data.test_documents=2",
    "arxiv": "data=arxiv_math data.source.category= data.valid_documents=2 data.test_documents=2 data.source.fields.text=[text]",
    "github": "data=github data.source.share=1 data.valid_documents=2 data.test_documents=2",
    "enwik8": f"data=enwik8 data.source.size={sum(SIZES)} data.source.piece=100",
    "copy": "data=copy data.source.documents=[4,4,4] data.tokenizer.kind=words",
}
"""Settings with which each of them can be prepared."""

CHANGED = [
    ("text", "data.min_document=5000", "data.min_document"),
    ("text", "data.min_document=600", "data.min_document=600"),
    ("text", "data.test_documents=20", "data.test_documents"),
    ("text", "data.valid_documents=20", "data.valid_documents"),
    ("text", "data.source.field=other", "data.source.field"),
    ("text", "data.source.label=other", "data.source.label"),
    ("text", "data.source.suffixes=[.md]", "data.source.suffixes"),
    ("text", "data.source.field=other data.source.bad_rows=skip", "data.source.bad_rows=skip"),
    ("text", "data.name=../x", "data.name"),
    ("text", "data.path=/nowhere", "data.path"),
    ("c4", "data.source.longer_than=5000", "data.source.longer_than"),
    ("c4", "data.source.longer_than=600", "data.source.longer_than"),
    ("c4", "data.source.rows=3", "data.source.rows"),
    ("c4", "data.source.fields.text=[other]", "data.source.fields.text"),
    ("c4", "data.source.label=other", "data.source.label"),
    ("arxiv", "data.source.category=math.", "data.source.category=math."),
    ("arxiv", "data.min_document=5000", "data.min_document"),
    ("github", "data.source.share=0.000001", "data.source.share"),
    ("github", "data.source.share=0.2", "data.source.share"),
    ("github", "data.source.fields.repository=[other]", "data.source.fields.repository"),
    ("enwik8", "data.source.size=5001", "data.source.size"),
    ("copy", "data.source.documents=[100,4,4000] data.source.lengths=[1]", "data.source.lengths"),
    ("copy", "data.min_document=5000", "data.min_document"),
]

LIMITS = ("min_document", "longer_than", "category", "share", "bad_rows=", "source.size", "source.rows")


@pytest.mark.parametrize("base", BASE)
def test_without_a_change_it_is_prepared(
    base: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BASE[base].split(" "), *([f"data.path={rows}"] if base != "copy" else [])]
    if "kind" not in BASE[base]:
        words.append("data.tokenizer.kind=bytes")
    assert main(["prepare", *words, f"root={tmp_path}"]) == 0, capsys.readouterr().err


@pytest.mark.hard
@pytest.mark.parametrize(("base", "changed", "blamed"), CHANGED)
def test_the_setting_that_was_changed_is_blamed(
    base: str, changed: str, blamed: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BASE[base].split(" "), *([f"data.path={rows}"] if base != "copy" and "data.path" not in changed else [])]
    if "kind" not in BASE[base]:
        words.append("data.tokenizer.kind=bytes")
    names = [word.partition("=")[0] for word in changed.split(" ")]
    words = [word for word in words if word.partition("=")[0] not in names]
    assert main(["prepare", *words, *changed.split(" "), f"root={tmp_path}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert says(blamed)(line)
    others = [limit for limit in LIMITS if limit in line and limit not in changed]
    assert not [limit for limit in others if not limit.startswith("bad_rows")], line

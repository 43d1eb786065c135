"""Published data sets, from files of the same form as the hub's."""

import json
from pathlib import Path

import pytest

from memexp.errors import UserError

from ...messages import says
from .books import BOOKS, book_rows, refused, texts, write_rows


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.zst", "json.gz"])
def test_rows_keep_their_published_splits(tmp_path: Path, suffix: str) -> None:
    for split in BOOKS:
        write_rows(tmp_path / f"{split}-00000-of-00001.{suffix}", book_rows(split))
    source = texts(tmp_path, fields={"text": ["missing", "text"], "title": ["short_book_title"]})
    documents = list(source)
    assert {(document.split, document.text) for document in documents} == {
        ("train", "Moby\r\n Dick"),
        ("train", "Emma"),
        ("valid", "Ulysses"),
        ("test", "Walden"),
    }
    assert documents[0].id == f"test-00000-of-00001.{suffix}:1 Wald Title"
    assert len({document.group for document in documents}) == len(documents)
    assert list(source) == documents


def test_text_files_in_folders_named_for_splits(tmp_path: Path) -> None:
    for split, books in BOOKS.items():
        for number, text in enumerate(books):
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / f"{number}.txt").write_bytes(text.encode())
    (tmp_path / "README.md").write_text("not a book")
    assert [(document.id, document.split, document.text) for document in texts(tmp_path)] == [
        ("test/0.txt", "test", "Walden"),
        ("train/0.txt", "train", "Moby\r\n Dick"),
        ("train/1.txt", "train", "Emma"),
        ("validation/0.txt", "valid", "Ulysses"),
    ]


def test_files_that_are_not_split_as_published_are_assigned(tmp_path: Path) -> None:
    write_rows(tmp_path / "train-0.jsonl", [{"text": "a"}])
    write_rows(tmp_path / "test-0.jsonl", [{"text": "b"}])
    assert {document.split for document in texts(tmp_path)} == {""}


def test_a_file_of_no_published_split_adds_to_none(tmp_path: Path) -> None:
    for name in ("train", "dev", "test", "extra"):
        write_rows(tmp_path / f"{name}-0.jsonl", [{"text": name}])
    found = [(document.text, document.split) for document in texts(tmp_path)]
    assert found == [("dev", "valid"), ("test", "test"), ("train", "train")]
    splits = {"train": ["train"], "validation": ["valid", "test"]}
    assert [document.text for document in texts(tmp_path, splits=splits)] == ["dev", "train"]


def test_json_beside_rows_or_texts_only_says_something_of_them(tmp_path: Path) -> None:
    (tmp_path / "info.json").write_text('{"text": "a description"}')
    assert [document.text for document in texts(tmp_path)] == ["a description"]
    (tmp_path / "book.txt").write_text("a book")
    assert [document.text for document in texts(tmp_path)] == ["a book"]
    write_rows(tmp_path / "rows.json.gz", [{"text": "a row"}])
    assert [document.text for document in texts(tmp_path)] == ["a row"]


def test_a_published_split_can_be_shared_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "c4-train.00000-of-01024.json.gz", [{"text": "a"}])
    write_rows(tmp_path / "c4-validation.00000-of-00008.json.gz", [{"text": text} for text in "bcd"])
    splits = {"train": ["train"], "validation": ["valid", "test"]}
    assert [(document.text, document.split) for document in texts(tmp_path, splits=splits)] == [
        ("a", "train"),
        ("b", "valid"),
        ("c", "test"),
        ("d", "valid"),
    ]


def test_short_documents_and_other_categories_are_passed_over(tmp_path: Path) -> None:
    rows = [
        {"latex": "ééé", "categories": "math.AG cs.LG"},  # six bytes
        {"latex": "éée", "categories": "math.AG"},
        {"latex": "longer", "categories": "cs.LG math.AG"},
        {"latex": "longer", "categories": ["math.NT", "cs.LG"]},
        {"latex": "longest", "categories": None},
    ]
    write_rows(tmp_path / "a.jsonl", rows)
    fields = {"text": ["latex"], "category": ["categories"]}
    taken = texts(tmp_path, fields=fields, longer_than=5, category="math.")
    assert [document.id for document in taken] == ["a.jsonl:1", "a.jsonl:4", "a.jsonl:5"]
    assert [document.id for document in texts(tmp_path, fields=fields, rows=2)] == ["a.jsonl:1", "a.jsonl:2"]


def test_classes(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "left", "label": True}, {"id": 8, "text": "right", "label": 0}]
    (tmp_path / "train.json").write_text(json.dumps(rows, indent=1))
    fields = {"text": ["text"], "title": ["id"]}
    documents = list(texts(tmp_path / "train.json", fields=fields, label="label"))
    assert [(document.id, document.label) for document in documents] == [
        ("train.json:1 7", "true"),
        ("train.json:2 8", "0"),
    ]
    write_rows(tmp_path / "train.parquet", rows[:1])
    assert [document.label for document in texts(tmp_path / "train.parquet", label="label")] == ["true"]
    source = texts(tmp_path / "train.json", label="class")
    refused(source, "train.json, row 1", "the fields id, label, text", "expected", "'class'")


def test_identity_tells_files_options_and_sets_apart(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "a"}])
    seen = [texts().identity(), texts(tmp_path).identity(), texts(tmp_path, rows=1).identity()]
    seen.append(texts(sets=[{"path": "owner/other"}]).identity())
    write_rows(tmp_path / "a.jsonl", [{"text": "aa"}])
    seen.append(texts(tmp_path).identity())
    assert len({json.dumps(identity) for identity in seen}) == len(seen)
    assert texts(tmp_path).describe()["parts"][0]["licence"] == "CC0"
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, check=says("gone.jsonl", "No such file")):
        texts(tmp_path).identity()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": 3}\n', ("a.jsonl, line 2", "the fields body", "expected", "'text'")),
        ("a.jsonl", b'{"text": "a\\u0000"}\n', ("a.jsonl, line 1", "NUL character at 1", "expected text")),
        ("a.json", b'[{"text": "x"}, 3]', ("a.json, row 2", "not a JSON object", "3")),
        ("a.json", b'[{"text": "x"}', ("a.json", "not JSON")),
        ("a.json", b'{\n "text": 1\n}', ("a.json, line 1", "not JSON")),
        ("a.jsonl.zst", b"nothing", ("cannot read", "a.jsonl.zst")),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    refused(texts(tmp_path), *words)


def test_a_folder_without_texts_or_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing")
    with pytest.raises(UserError, check=says(str(tmp_path), ".txt", ".jsonl")):
        texts(tmp_path)

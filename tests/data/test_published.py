"""Published data sets, from files of the same form as the hub's, and from a hub that is not there."""

import gzip
import json
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import errors

from memexp.config.compose import compose
from memexp.config.sources import ArticlesOptions, PiecesOptions, TextsOptions
from memexp.data.sources import Articles, Pieces, Source, Texts
from memexp.errors import UserError


def texts(path: Path | None = None, **options: Any) -> Texts:
    """A source of one data set, `owner/books`, whose text is in `text`."""
    values = {"sets": [{"path": "owner/books"}], "fields": {"text": ["text"]}, "licence": "CC0", "instead": "books"}
    return Texts(TextsOptions(**{**values, **options}), None if path is None else str(path))


def refused(source: Source) -> str:
    """The one line that reading ends with."""
    with pytest.raises(UserError) as error:
        list(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the form that the file's name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".zst":
        path.write_bytes(pyarrow.compress(lines, codec="zstd", asbytes=True))
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


BOOKS = {
    "train": ["Moby\r\n Dick", "Emma"],
    "validation": ["Ulysses"],
    "test": ["Walden"],
}


def book_rows(split: str) -> list[dict[str, Any]]:
    return [
        {"short_book_title": f"{text[:4]} Title", "publication_date": 1850, "url": "http://x", "text": text}
        for text in BOOKS[split]
    ]


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
    message = refused(texts(tmp_path / "train.json", label="class"))
    assert "train.json, row 1 has the fields id, label, text; expected a class in 'class'" in message


def test_identity_tells_files_options_and_sets_apart(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "a"}])
    seen = [texts().identity(), texts(tmp_path).identity(), texts(tmp_path, rows=1).identity()]
    seen.append(texts(sets=[{"path": "owner/other"}]).identity())
    write_rows(tmp_path / "a.jsonl", [{"text": "aa"}])
    seen.append(texts(tmp_path).identity())
    assert len({json.dumps(identity) for identity in seen}) == len(seen)
    assert texts(tmp_path).describe()["parts"][0]["licence"] == "CC0"
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"gone.jsonl: No such file"):
        texts(tmp_path).identity()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": 3}\n', "a.jsonl, line 2 has the fields body; expected text in 'text'"),
        ("a.jsonl", b'{"text": "a\\u0000"}\n', "a.jsonl, line 1 has a NUL character at 1; expected text"),
        ("a.json", b'[{"text": "x"}, 3]', "a.json, row 2 is no JSON object but 3"),
        ("a.json", b'[{"text": "x"}', "a.json is not JSON"),
        ("a.json", b'{\n "text": 1\n}', "a.json, line 1 is not JSON"),
        ("a.jsonl.zst", b"nothing", "cannot read"),
        ("a.tar", b"nothing", "a.tar"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "a.tar":
        with pytest.raises(UserError, match=r"a folder without any file that ends in .txt or .jsonl"):
            texts(tmp_path)
    else:
        assert expected in refused(texts(tmp_path))


# ------------------------------------------------------------------------------------------------ WikiText

WIKI = "".join(
    f" {line} \n" if line else " \n"
    for line in (
        "",
        "= First =",
        "",
        "Text of the first , with <unk> and 1 @,@ 000 .",
        "",
        "= = Section = =",
        "",
        "= not a heading =",
        "More\u00a0text   with spaces .",
        "= nor this =",
        "",
        "= Second =",
        "",
        "Its text .",
    )
)


def articles(path: Path) -> Articles:
    return Articles(ArticlesOptions(sets=[], fields={"text": ["text"]}, licence="x", instead="wiki"), str(path))


def test_articles_are_documents_and_come_alike_from_lines_and_rows(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "lines" / f"wiki.{split}.raw").write_text(WIKI.replace("First", split))
        # As the hub has it: a line a row, blank ones empty; cut into two files within an article.
        lines = WIKI.replace("First", split).splitlines(keepends=True)
        rows = [{"text": line if line.strip() else ""} for line in lines]
        name = "validation" if split == "valid" else split
        write_rows(tmp_path / "rows" / f"{name}-00000-of-00002.parquet", rows[:4])
        write_rows(tmp_path / "rows" / f"{name}-00001-of-00002.parquet", rows[4:])
    documents = list(articles(tmp_path / "lines"))
    assert [(document.id, document.split) for document in documents] == [
        (f"{split}:{number} {title}", split)
        for split in ("test", "train", "valid")
        for number, title in ((1, split), (2, "Second"))
    ]
    assert "".join(str(document.text) for document in documents[:2]) == WIKI.replace("First", "test")
    assert documents[1].text == " = Second = \n \n Its text . \n"
    assert sorted(articles(tmp_path / "rows")) == sorted(documents)


def test_lines_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "wiki.test.raw").write_bytes(b" = A = \n\n\xff\n")
    assert "wiki.test.raw is not UTF-8" in refused(articles(tmp_path))


# ------------------------------------------------------------------------------------------------- enwik8


def pieces(path: Path) -> Pieces:
    options = PiecesOptions(sets=[], fields={"text": ["text"]}, licence="x", instead="wiki", size=200, piece=50)
    return Pieces(options, str(path))


def test_a_hundred_million_bytes_are_cut_in_pieces(tmp_path: Path) -> None:
    text = "".join(f"{number:03}é" for number in range(40)).encode()  # 200 bytes, cut within letters
    (tmp_path / "enwik8").write_bytes(text)
    documents = list(pieces(tmp_path))
    assert [(document.id, document.split, len(document.text)) for document in documents] == [
        ("train:0", "train", 50),
        ("train:50", "train", 50),
        ("train:100", "train", 50),
        ("train:150", "train", 30),
        ("valid:180", "valid", 10),
        ("test:190", "test", 10),
    ]
    assert b"".join(document.text for document in documents if isinstance(document.text, bytes)) == text
    with zipfile.ZipFile(tmp_path / "enwik8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", text)
    assert list(pieces(tmp_path / "enwik8.zip")) == documents
    with pytest.raises(UserError, match="there are 2 files; expected one"):
        pieces(tmp_path)
    write_rows(tmp_path / "rows" / "train.parquet", [{"text": text.decode()}])
    assert list(pieces(tmp_path / "rows")) == documents


def test_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text8").write_bytes(b"a" * 199)
    assert "the text has 199 bytes; expected 200" in refused(pieces(tmp_path))
    (tmp_path / "text8").write_bytes(b"a" * 201)
    assert "the text has more than 200 bytes; expected 200" in refused(pieces(tmp_path))


def test_a_damaged_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "enwik8.zip", "w") as archive:
        archive.writestr("enwik8", b"a" * 200)
    whole = (tmp_path / "enwik8.zip").read_bytes()
    (tmp_path / "enwik8.zip").write_bytes(whole.replace(b"aaaa", b"aaab", 1))
    assert "cannot read enwik8: Bad CRC-32" in refused(pieces(tmp_path))


# --------------------------------------------------------------------------------------------------- hub


class FakeHub:
    """A hub with what `sets` says of each data set: its splits, or what `datasets` raises."""

    def __init__(self, sets: dict[str, Any], gated: str = "") -> None:
        self.sets, self.gated, self.asked = sets, gated, list[dict[str, Any]]()

    def dataset_info(self, name: str, *, revision: str | None, timeout: float, expand: list[str]) -> SimpleNamespace:
        assert timeout <= 5
        assert expand == ["sha", "gated"]
        if name not in self.sets:
            raise errors.RepositoryNotFoundError("404", response=_response())
        return SimpleNamespace(sha=f"commit of {revision}", gated="auto" if name == self.gated else False)

    def load_dataset(self, path: str, *, streaming: bool, **options: Any) -> Any:
        assert streaming
        self.asked.append({"path": path, **options})
        found = self.sets[path]
        if isinstance(found, Exception):
            raise found
        return found


def _response() -> Any:
    return SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a hub in the place of the real one."""

    def put(hub: FakeHub) -> FakeHub:
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
        return hub

    return put


def test_the_first_data_set_that_can_be_read_is_streamed(hub: Any, tmp_path: Path) -> None:
    load = datasets.load_dataset
    for split in BOOKS:
        write_rows(tmp_path / f"{split}.parquet", book_rows(split))
    files = {split: str(tmp_path / f"{split}.parquet") for split in BOOKS}
    real = load("parquet", data_files=files, streaming=True, cache_dir=str(tmp_path / "cache"))
    script = RuntimeError("Dataset scripts are no longer supported, but found books.py\nmore")
    seen = hub(FakeHub({"owner/script": script, "owner/parquet": real}))
    source = texts(
        sets=[{"path": "owner/none"}, {"path": "owner/script"}, {"path": "owner/parquet", "name": "a", "revision": "b"}]
    )
    part = {"name": "owner/parquet", "version": "commit of b", "licence": "CC0"}
    assert source.describe()["parts"] == [part]
    documents = [(document.id, document.split, document.text) for document in source]
    assert documents == [
        ("train:1", "train", "Moby\r\n Dick"),
        ("train:2", "train", "Emma"),
        ("validation:1", "valid", "Ulysses"),
        ("test:1", "test", "Walden"),
    ]
    assert seen.asked[-1] == {"path": "owner/parquet", "name": "a", "revision": "commit of b"}
    assert len(seen.asked) == 2
    assert [(document.id, document.split, document.text) for document in source] == documents


def test_named_files_are_read_themselves_for_their_repository_may_hold_a_script(hub: Any) -> None:
    refused = RuntimeError("Dataset scripts are no longer supported, but found books.py")
    rows = {split: book_rows(split) for split in BOOKS}
    seen = hub(FakeHub({"owner/books": refused, "json": rows, "parquet": {"train": [{"text": "a"}]}}))
    named = {"train": ["a/train/*.jsonl.zst", "b/*.jsonl"], "validation": ["a/val/*"], "test": ["a/test/*"]}
    documents = list(texts(sets=[{"path": "owner/books", "data_files": named, "revision": "r"}]))
    assert [(document.split, document.text) for document in documents[1:3]] == [("train", "Emma"), ("valid", "Ulysses")]
    at = "hf://datasets/owner/books@commit of r"
    files = {
        "train": [f"{at}/a/train/*.jsonl.zst", f"{at}/b/*.jsonl"],
        "validation": [f"{at}/a/val/*"],
        "test": [f"{at}/a/test/*"],
    }
    assert seen.asked == [{"path": "json", "data_files": files}]
    source = texts(sets=[{"path": "owner/books", "data_files": {"train": ["c/*.parquet"]}}])
    assert [document.text for document in source] == ["a"]
    expected = {"train": ["hf://datasets/owner/books@commit of None/c/*.parquet"]}
    assert seen.asked[1:] == [{"path": "parquet", "data_files": expected}]


@pytest.mark.parametrize("name", ["isabelle", "arxiv_math", "github"])
def test_named_files_of_the_configurations(name: str) -> None:
    for options in compose("prepare", [f"data={name}"]).data.source.sets:
        for patterns in options.get("data_files", {}).values():
            assert patterns
            assert all(re.fullmatch(r"[\w+-]+(/[\w+*-]+)+\.(parquet|jsonl\.\S+)", one) for one in patterns)


def test_a_data_set_without_its_splits_is_assigned(hub: Any) -> None:
    hub(FakeHub({"owner/books": {"train": [{"text": "a"}, {"text": "b"}]}}))
    assert [(document.id, document.split) for document in texts()] == [("train:1", ""), ("train:2", "")]
    assert [document.id for document in texts(rows=1)] == ["train:1"]


def test_no_data_set_can_be_read(hub: Any) -> None:
    sets = {"owner/gated": datasets.exceptions.DatasetNotFoundError("ask"), "owner/empty": StopIteration()}
    hub(FakeHub(sets, gated="owner/gated"))
    message = refused(texts(sets=[{"path": name} for name in ("owner/none", "owner/empty", "owner/gated")]))
    assert "owner/none is not there; owner/empty: StopIteration; owner/gated is gated: accept its terms at" in message
    assert "data.path=PATH" in message
    assert "data=books" in message


def test_no_other_data_set_is_taken_where_one_cannot_be_reached(hub: Any) -> None:
    hub(FakeHub({"owner/books": ConnectionResetError("peer went away"), "owner/other": {"train": [{"text": "a"}]}}))
    message = refused(texts(sets=[{"path": "owner/books"}, {"path": "owner/other"}]))
    assert "for owner/books: peer went away; expected a connection" in message


def test_a_lost_connection(hub: Any) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "a"}
        raise ConnectionResetError("peer went away")

    hub(FakeHub({"owner/books": {"train": rows()}}))
    assert "owner/books broke off after row 1 of train: peer went away" in refused(texts())


def test_without_a_network_it_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")
    message = refused(texts())
    assert asked == ["hub.invalid"] * len(asked)
    assert 1 <= len(asked) <= 2  # it is not tried over and over
    assert "cannot reach http://hub.invalid for owner/books" in message
    assert "data.path=PATH" in message
    assert message.endswith("data=books")
    instead = compose("prepare", ["data=hyperpartisan"]).data.source.instead  # no package has classes
    message = refused(texts(instead=instead, label="label"))
    assert message.endswith("data=text data.path=FILE data.source.label=FIELD")

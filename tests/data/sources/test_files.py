"""A user's own files: what becomes a document, and every way in which it cannot."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from memexp.config.sources import FilesOptions
from memexp.data.sources import Files
from memexp.errors import UserError

from ...messages import says


def refused(path: Path, *words: str) -> str:
    """The one line, with all of these words in it, that reading `path` ends with."""
    with pytest.raises(UserError, check=says(*words)) as error:
        list(Files(FilesOptions(), str(path)))
    return str(error.value)


def test_a_folder_gives_its_files_in_order_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "late.md").write_bytes("é\r\n\f".encode())
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    (tmp_path / ".git" / "config").write_bytes(b"\xff")
    documents = list(Files(FilesOptions(), str(tmp_path)))
    assert [(document.id, document.text) for document in documents] == [("a.txt", "first"), ("b/late.md", "é\r\n\f")]
    assert len({document.group for document in documents}) == 2
    assert [document.id for document in Files(FilesOptions(suffixes=[".md"]), str(tmp_path))] == ["b/late.md"]
    assert [document.id for document in Files(FilesOptions(), str(tmp_path / "a.txt"))] == ["a.txt"]


def test_rows_are_documents(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"row {number}\n", "other": 1}) + "\n" for number in (1, 2)) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.jsonl.zst").write_bytes(pyarrow.compress(lines.encode(), codec="zstd", asbytes=True))
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["row 1\n", "row 2\n"], "other": [1, 2]}), tmp_path / "c.parquet"
    )
    documents = list(Files(FilesOptions(), str(tmp_path)))
    assert [document.text for document in documents] == ["row 1\n", "row 2\n"] * 4
    names = [f"{name}:{row}" for name in ("a.jsonl", "b.jsonl.gz", "c.parquet", "d.jsonl.zst") for row in (1, 2)]
    assert [document.id for document in documents] == [document.group for document in documents] == names


def test_all_files_that_are_no_text_are_named_at_once(folder: Path) -> None:
    first = folder / "a.bin"
    first.write_bytes(b"\xff\xfa")
    refused_alone = refused(folder, str(first), "not UTF-8")
    (folder / "z.bin").write_bytes(b"a\0b")
    (folder / "m.txt").write_bytes("ü".encode("latin-1"))
    message = refused(folder, "not UTF-8", "2 other files", "m.txt, z.bin")
    assert message.startswith(str(first))
    assert message.startswith(refused_alone)


def test_a_source_can_be_read_twice(folder: Path) -> None:
    source = Files(FilesOptions(), str(folder))
    documents = list(source)
    assert len(documents) == 6
    assert list(source) == documents


def test_identity_is_the_content(folder: Path) -> None:
    before = Files(FilesOptions(), str(folder)).identity()
    assert Files(FilesOptions(), str(folder)).identity() == before
    text = (folder / "file1.txt").read_text()
    (folder / "file1.txt").write_text(text[:-1] + "?")
    assert Files(FilesOptions(), str(folder)).identity() != before
    (folder / "file1.txt").write_text(text)
    assert Files(FilesOptions(), str(folder)).identity() == before
    (folder / "file1.txt").rename(folder / "file9.txt")
    assert Files(FilesOptions(), str(folder)).identity() != before


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    refused(tmp_path / "none", str(tmp_path / "none"), "not exist")
    refused(tmp_path, str(tmp_path), "not hidden")
    with pytest.raises(UserError, check=says("data.path", "not given")):
        Files(FilesOptions(), None)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, check=says(str(tmp_path), ".md")):
        Files(FilesOptions(suffixes=[".md"]), str(tmp_path))


def test_text_that_is_not_utf8_names_file_and_offset(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("abc\u00e9d".encode("latin-1"))
    refused(tmp_path, "latin.txt", "not UTF-8", "byte 0xe9 at offset 3")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("text", encoding=encoding)
    refused(tmp_path, f"a.txt is {encoding.upper()}", "expected UTF-8")


def test_nul_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é text", encoding="utf-16-le")
    refused(tmp_path, "a.txt", "not UTF-8")
    (tmp_path / "a.txt").write_text("text", encoding="utf-16-le")  # UTF-8 as well, as far as one can see
    refused(tmp_path, "a.txt", "NUL byte at offset 1", "expected text", "Likely cause: another encoding")
    path = tmp_path / "a.txt"
    path.rename(tmp_path / "a.jsonl").write_text(json.dumps({"text": "a\0"}) + "\n")
    refused(tmp_path, "a.jsonl, line 1", "NUL character at 1")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "gone.txt", "No such file")
    with pytest.raises(UserError, check=says("gone.txt", "No such file")):
        Files(FilesOptions(), str(tmp_path)).identity()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "cut', ("not JSON",)),
        (b'["text"]', ("not a JSON object",)),
        (b'{"body": "x"}', ("the fields body", "expected", "'text'")),
        (b'{"text": 3}', ("'text' of type int",)),
        (b'{"text": "\xe9"}', ("not UTF-8", "byte 0xe9 at offset 10")),
    ],
)
def test_bad_json_lines_name_file_and_line(tmp_path: Path, line: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    refused(path, f"{path}, line 2", *words)


def test_another_field(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n')
    assert [document.text for document in Files(FilesOptions(field="body"), str(tmp_path))] == ["x"]


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "good"}\n' * 1000)[:-20])
    refused(path, f"cannot read {path}")
    path.write_bytes(b"no gzip")
    refused(path, f"cannot read {path}")


def test_a_zst_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(pyarrow.compress(b'{"text": "good"}\n' * 1000, codec="zstd", asbytes=True)[:-20])
    refused(path, f"cannot read {path}: Truncated")
    path.write_bytes(b"no zstd")
    refused(path, f"cannot read {path}: ZSTD")


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 no parquet")
    refused(path, f"cannot read {path}")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "title": ["y"]}), path)
    refused(path, str(path), "the columns body, title", "expected 'text'")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", None]}), path)
    refused(path, str(path), "row 2", "nothing in 'text'")

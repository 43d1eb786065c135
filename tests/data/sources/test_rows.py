"""Rows of every format, through every source: each fault is one line that names file and row, or the row is left out and counted."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import FilesOptions
from memexp.data.library import prepare
from memexp.data.sources import kinds
from memexp.data.sources.files import LIKE_ROWS, NO_ROW
from memexp.data.sources.notes import ROWS_LEFT_OUT, notes_of, said
from memexp.errors import UserError

from ...messages import says
from . import made
from .every import FOLDERS, SOURCES, TEXTS, all_text, row

Lines = list[bytes]


def lines(rows: Lines) -> bytes:
    return b"\n".join(rows) + b"\n"


def array(rows: Lines) -> bytes:
    return b"[" + b", ".join(rows) + b"]"


TEXT_FORMATS: dict[str, Callable[[Lines], bytes]] = {
    "a.jsonl": lines,
    "b.json": lines,
    "c.json": array,
    "d.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "e.json.gz": lambda rows: gzip.compress(lines(rows)),
    "f.json.gz": lambda rows: gzip.compress(array(rows)),
    "g.jsonl.bz2": lambda rows: bz2.compress(lines(rows)),
    "h.jsonl.xz": lambda rows: lzma.compress(lines(rows)),
    "i.jsonl.zst": lambda rows: made.zstd(lines(rows)),
    "j.jsonl": lambda rows: gzip.compress(lines(rows)),
    "k.jsonl.gz": lines,
    "l.ndjson": lambda rows: lines(rows).replace(b"\n", b"\r\n"),
    "m.json": lambda rows: b"\xef\xbb\xbf" + lines(rows),
    "n.json": lambda rows: b"[\n  " + b",\n  ".join(rows) + b"\n]\n",
}
"""Files with JSON in them, by their names; what they are does not hang on these."""

GOOD = [json.dumps(row(f"row {number}\n", number)).encode() for number in range(3)]


def table(rows: Lines) -> Any:
    return pyarrow.Table.from_pylist([json.loads(each) for each in rows])


def write_table(path: Path, rows: Lines) -> Path:
    data = table(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(data, path, row_group_size=2)
    else:
        opened = pyarrow.ipc.new_stream if "stream" in path.name else pyarrow.ipc.new_file
        with opened(path, data.schema) as sink:
            sink.write_table(data)
    return path


def write(path: Path, rows: Lines) -> Path:
    if path.name in TEXT_FORMATS:
        path.write_bytes(TEXT_FORMATS[path.name](rows))
        return path
    return write_table(path, rows)


FORMATS = [*TEXT_FORMATS, "t.parquet", "u.arrow", "v.stream.arrow", "w"]


def texts(source: Any) -> list[str]:
    return sorted(all_text(source).split())


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_known_by_content(tmp_path: Path, name: str, format: str) -> None:
    if format == "w":  # no ending at all
        path = write(tmp_path / "w.parquet", GOOD).rename(tmp_path / "w")
    else:
        path = write(tmp_path / format, GOOD)
    options = {"size": 18, "piece": 18} if name == "pieces" else {}
    source = SOURCES[name](path, **options)
    assert texts(source) == ["0", "1", "2", "row", "row", "row"]
    if format != "w" and name != "files":  # a folder of it
        assert texts(SOURCES[name](tmp_path, **options)) == texts(source)


BAD: dict[str, tuple[bytes, str]] = {
    "null": (b"null", "not a JSON object but null"),
    "a null text": (json.dumps(row(None)).encode(), "nothing in 'text'"),
    "NUL": (json.dumps(row("a\0b")).encode(), "NUL character at 1"),
    "half a pair": (json.dumps(row("a\ud800")).encode(), "half of a surrogate pair at character 1"),
    "no field": (json.dumps({"txet": "a", "repo": "a", "path": "b"}).encode(), "did you mean txet?"),
    "a number": (json.dumps(row(3)).encode(), "'text' of type int"),
    "a list": (json.dumps(row(["a"])).encode(), "'text' of type list"),
    "an object": (json.dumps(row({"a": 1})).encode(), "'text' of type dict"),
    "true": (json.dumps(row(True)).encode(), "'text' of type bool"),
    "a number alone": (b"3", "not a JSON object but 3"),
    "a list alone": (b"[[1]]", "not a JSON object but a list"),
    "twice": (b'{"text": "a", "text": "b", "repo": "a", "path": "b"}', "'text' more than once"),
    "deep": (b'{"text": "a", "meta": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    "cut": (b'{"text": "cu', "not JSON"),
    "no UTF-8": (b'{"text": "\xe9"}', "not UTF-8"),
    "a long number": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "not JSON"),
}
"""Rows that cannot be used, and what is said of them."""

OF_THE_FILE = ("deep", "cut", "no UTF-8", "a long number")
"""Those for which nothing of an array can be read."""


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("bad", BAD)
def test_a_row_that_cannot_be_used_is_one_line_or_left_out(tmp_path: Path, name: str, bad: str) -> None:
    data, seen = BAD[bad]
    options = {"size": 18, "piece": 18} if name == "pieces" else {}
    for format in TEXT_FORMATS if name == "files" else ("a.jsonl", "c.json", "d.jsonl.gz"):
        path = write(tmp_path / format, [*GOOD[:1], data, *GOOD[1:]])
        is_array = format in ("c.json", "f.json.gz", "n.json")
        if is_array and bad in OF_THE_FILE:
            with pytest.raises(UserError, check=says(format, "not JSON")):
                list(SOURCES[name](path, bad_rows="skip", **options))
            continue
        if name == "repositories" and bad == "NUL":  # a binary file
            continue
        where = "row 2" if is_array else "line 2"
        with pytest.raises(UserError, check=says(format, where, seen, "data.source.bad_rows=skip")):
            list(SOURCES[name](path, **options))
        source = SOURCES[name](path, bad_rows="skip", **options)
        assert texts(source) == ["0", "1", "2", "row", "row", "row"]
        assert notes_of(source)[ROWS_LEFT_OUT]["count"] == 1
        assert says(where, seen.partition("did")[0].rstrip("; "))(said(notes_of(source))[0])
        assert source.identity() != SOURCES[name](path, **options).identity()


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".stream.arrow"])
@pytest.mark.parametrize(
    ("values", "kind", "seen"),
    [
        (["row 0\n", None, "row 1\n"], pyarrow.string(), "nothing in 'text'"),
        (["row 0\n", "a\0", "row 1\n"], pyarrow.large_string(), "NUL character at 1"),
        ([b"row 0\n", b"\xff", b"row 1\n"], pyarrow.binary(), "not UTF-8 at offset 0"),
        ([["row 0\n"]] * 3, pyarrow.list_(pyarrow.string()), "'text' of type list"),
        ([1, 2, 3], pyarrow.int64(), "'text' of type int"),
        ([{"a": "b"}] * 3, pyarrow.struct([("a", pyarrow.string())]), "'text' of type dict"),
    ],
)
def test_a_row_of_a_table(tmp_path: Path, name: str, ending: str, values: Any, kind: Any, seen: str) -> None:
    if name == "repositories" and "NUL" in seen:  # a binary file
        return
    count = len(values)
    data = pyarrow.table(
        {"text": pyarrow.array(values, kind), "repo": ["a"] * count, "path": [str(n) for n in range(count)]}
    )
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(data, path)
    else:
        opened = pyarrow.ipc.new_stream if "stream" in ending else pyarrow.ipc.new_file
        with opened(path, data.schema) as sink:
            sink.write_table(data)
    with pytest.raises(UserError, check=says(path.name, "row ", seen)):
        list(SOURCES[name](path))
    source = SOURCES[name](path, bad_rows="skip", **({"size": 12, "piece": 12} if name == "pieces" else {}))
    if "type" not in seen:
        assert texts(source) == ["0", "1", "row", "row"]
        assert notes_of(source)[ROWS_LEFT_OUT]["count"] == 1


@pytest.mark.parametrize(
    "kind",
    [pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())],
)
@pytest.mark.parametrize("field", ["text", "doc.text", "meta.text", "part/text"])
def test_columns_of_every_kind(tmp_path: Path, kind: Any, field: str) -> None:
    values = (
        pyarrow.array([b"one", b"two"], kind) if kind == pyarrow.binary() else pyarrow.array(["one", "two"]).cast(kind)
    )
    if field == "meta.text":
        column, name = pyarrow.StructArray.from_arrays([values], names=["text"]), "meta"
    else:
        column, name = values, field
    pyarrow.parquet.write_table(pyarrow.table({name: column, "other": [1, 2]}), tmp_path / "a.parquet")
    assert texts(SOURCES["files"](tmp_path, field=field)) == ["onetwo"]
    seen = "fields meta" if field == "meta.text" else f"columns {name}, other"
    with pytest.raises(UserError, check=says("a.parquet", seen, f"'{field}s'", f"did you mean {field}?")):
        list(SOURCES["files"](tmp_path, field=f"{field}s"))


def test_a_column_that_is_meant_is_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, check=says("columns content", "expected 'contents'", "did you mean content?")):
        list(SOURCES["files"](tmp_path, field="contents"))
    twice = pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UserError, check=says("several columns called 'text'")):
        list(SOURCES["files"](tmp_path))


# ---------------------------------------------------------------------------------------------- kinds


def test_a_field_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for option in ("field", "label"):
        with pytest.raises(UserError, check=says(f"data.source.{option} is content", "1 file", "1 of text")):
            list(SOURCES["files"](tmp_path, **{option: "content"}))
    write(tmp_path / "a.jsonl", [b'{"content": "x"}'])
    assert texts(SOURCES["files"](tmp_path, field="content")) == ["xtext"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, made.zstd])
def test_texts_are_read_however_they_are_compressed(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    for name in SOURCES:
        path = tmp_path / f"{name}{TEXTS[name]}"
        path.write_bytes(pack(b" one two \n"))
        if name not in ("repositories", "theories"):  # which take sources by their names
            options = {"size": 10, "piece": 10} if name == "pieces" else {}
            assert texts(SOURCES[name](path, **options)) == ["one", "two"]


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("pieces", "repositories", "theories")])
def test_archives_are_refused(tmp_path: Path, name: str) -> None:
    made.wheel(tmp_path / "a.zip", {"a.txt": b"text"})
    (tmp_path / "b.tar").write_bytes(made.tar({"a.txt": b"text"}, ""))
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(made.tar({"a.txt": b"text"}, "")))
    for file, kind in (("a.zip", kinds.ZIP), ("b.tar", kinds.TAR), ("c.tar.gz", kinds.TAR)):
        with pytest.raises(UserError, check=says(file, kind, "unpack it")):
            list(SOURCES[name](tmp_path / file))


def test_a_mixture_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(3):
        (top / f"{number}.txt").write_text(f"text {number}")
    for format in FORMATS[:-1]:
        write(top / format, GOOD)
    (top / "empty.jsonl").write_text("")
    (top / "one.json").write_text('{"content": "x"}')
    (top / "pretty.json").write_text(json.dumps({"text": "x"}, indent=1))
    data = Data(
        name="text", source=FilesOptions(), tokenizer=Tokenizer(kind="bytes"), valid_documents=1, test_documents=1,
        path=str(top),
    )  # fmt: skip
    source = prepare(data, tmp_path).manifest["source"]
    assert source["kinds"]["JSON lines"] == 6
    assert source["kinds"]["text"] == 5
    assert source["notes"][NO_ROW] == {"count": 1, "first": ["empty.jsonl"]}
    assert source["notes"][f"{LIKE_ROWS} 'text'"] == {"count": 2, "first": ["one.json", "pretty.json"]}
    printed = capsys.readouterr().err
    assert "6 of JSON lines" in printed
    assert f"{NO_ROW}: 1 (empty.jsonl)" in printed


PLAIN = {
    "code.py": b"{}\n[1]\nx = {}\n",
    "list.txt": b"[section]\nkey = 1\n",
    "pretty.json": b'{\n "name": "x",\n "version": 1\n}\n',
    "one.json": b'{"name": "x"}',
    "array.json": b"[1, 2, 3]\n",
    "objects.json": b'[{"name": "x"}]\n',
    "words.txt": b"BZhang wrote PK and PAR1\n",
    "PAR1.txt": b"PAR1 is a magic\n",
    "bom.txt": b"\xef\xbb\xbfwith a mark\r\n",
    "brace.tex": b"{\\bf bold}\n",
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_was_read_as_text_still_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PLAIN[name])
    source = SOURCES["files"](tmp_path)
    assert [(document.id, str(document.text).encode()) for document in source] == [(name, PLAIN[name])]
    assert [*source.identity()] == ["field", "files"]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_rows_in_another_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD).decode().encode(encoding))
    with pytest.raises(UserError, check=says("a.jsonl", f"is {encoding.upper()}", "expected UTF-8")):
        list(SOURCES[name](tmp_path, bad_rows="skip"))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "format", [name for name in FORMATS if name.endswith((".gz", ".bz2", ".xz", ".zst", ".parquet", ".arrow"))]
)
def test_a_file_that_is_cut_off(tmp_path: Path, name: str, format: str) -> None:
    """What is gone are not some rows, so it is refused in any case."""
    path = write(tmp_path / format, GOOD * 50)
    if format == "k.jsonl.gz":  # which is not compressed
        return
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, check=says("cannot read", format)):
        list(SOURCES[name](path, bad_rows="skip"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, made.zstd])
def test_what_unpacks_to_more_than_fits_is_one_line(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "LONGEST", 10_000)
    for name, content in (
        ("a.jsonl", b'{"text": "' + b"a" * 20_000 + b'"}'),
        ("b.txt", b"a" * 20_000),
        ("c.json", b"[" + b'{"text": "a"},' * 2000 + b"{}]"),
    ):
        (tmp_path / name).write_bytes(pack(content))
        with pytest.raises(UserError, check=says(name, "unpacks to")):
            list(SOURCES["texts" if name == "c.json" else "files"](tmp_path / name))

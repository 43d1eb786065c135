"""enwik8 and text8: a text of a known size in documents of equal length."""

import zipfile
from pathlib import Path

import pytest

from memexp.config.sources import PiecesOptions
from memexp.data.sources import Pieces
from memexp.errors import UserError

from ...messages import says
from .books import refused, write_rows


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
    with pytest.raises(UserError, check=says("2 files", "expected one")):
        pieces(tmp_path)
    write_rows(tmp_path / "rows" / "train.parquet", [{"text": text.decode()}])
    assert list(pieces(tmp_path / "rows")) == documents


def test_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text8").write_bytes(b"a" * 199)
    refused(pieces(tmp_path), "199 bytes", "expected 200")
    (tmp_path / "text8").write_bytes(b"a" * 201)
    refused(pieces(tmp_path), "more than 200 bytes", "expected 200")


def test_a_damaged_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "enwik8.zip", "w") as archive:
        archive.writestr("enwik8", b"a" * 200)
    whole = (tmp_path / "enwik8.zip").read_bytes()
    (tmp_path / "enwik8.zip").write_bytes(whole.replace(b"aaaa", b"aaab", 1))
    refused(pieces(tmp_path), "cannot read enwik8", "Bad CRC-32")

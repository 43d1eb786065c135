"""Archives give back what was put in, and say in one line when they cannot."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memexp.data.sources import archives, kinds
from memexp.data.sources.archives import read_archive
from memexp.errors import UserError

from ...messages import says
from . import made

MAKERS: dict[str, Callable[[Path, made.Files], Path]] = {
    **{
        f"deb{kind}": lambda folder, files, kind=kind: made.deb(folder / "a_1_all.deb", files, kind)
        for kind in made.COMPRESSORS
    },
    "wheel": lambda folder, files: made.wheel(folder / "a-1-py3-none-any.whl", files),
    "tar.gz": lambda folder, files: made.source_archive(folder / "a-1.tar.gz", files, "a-1"),
    "tar.xz": lambda folder, files: made.source_archive(folder / "a_1.orig.tar.xz", files, "a-1"),
}
NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}\.txt", fullmatch=True)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=10)
@given(files=st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=4))
def test_files_come_back_as_they_were(kind: str, files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        found = read_archive(MAKERS[kind](Path(folder), files), lambda name: True)
    assert found == files
    assert list(found) == sorted(files)


@pytest.mark.parametrize("kind", ["deb.xz", "wheel", "tar.gz"])
def test_only_what_is_wanted_and_unpacked(tmp_path: Path, kind: str) -> None:
    files = {"usr/doc/a.txt.gz": gzip.compress(b"text"), "usr/doc/b.txt": b"other"}
    archive = MAKERS[kind](tmp_path, files)
    assert read_archive(archive, lambda name: name.endswith(".gz")) == {"usr/doc/a.txt.gz": b"text"}


@pytest.mark.parametrize("kind", ["deb", "deb.xz", "deb.gz", "deb.zst", "wheel", "tar.gz", "tar.xz"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path, {"a.txt": bytes(range(256)) * 40})
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"quite another file" * 10):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, check=says("cannot read", archive.name, "expected", ".deb", "wheel", "source")):
            read_archive(archive, lambda name: True)


def test_a_deb_without_data(tmp_path: Path) -> None:
    archive = tmp_path / "a_1_all.deb"
    archive.write_bytes(b"!<arch>\n" + b"debian-binary   0           0     0     100644  4         `\n2.0\n")
    with pytest.raises(UserError, check=says(archive.name, "no data.tar")):
        read_archive(archive, lambda name: True)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_unpacks_to_more_than_fits_is_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = MAKERS[kind](tmp_path, {"a.txt": b"a" * 20_000, "b.txt": b"b" * 20_000})
    monkeypatch.setattr(archives, "LARGEST", 30_000)
    assert len(read_archive(archive, lambda name: name == "a.txt")) == 1
    with pytest.raises(UserError, check=says(archive.name, "unpacks to 40,000 bytes", "30,000 at most")):
        read_archive(archive, lambda name: True)
    monkeypatch.setattr(archives, "LONGEST", 10_000)
    if kind != "wheel":  # of which only what is wanted is unpacked
        with pytest.raises(UserError, check=says(archive.name, "unpacks to", "10,000 at most")):
            read_archive(archive, lambda name: False)


@pytest.mark.parametrize("kind", ["deb.xz", "wheel", "tar.gz"])
def test_a_file_inside_that_unpacks_to_more_than_fits(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = MAKERS[kind](tmp_path, {"a.txt.gz": gzip.compress(b"a" * 20_000)})
    monkeypatch.setattr(kinds, "LONGEST", 10_000)
    with pytest.raises(UserError, check=says(archive.name, "unpacks to more")):
        read_archive(archive, lambda name: True)


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_is_written_wherever_names_point_to(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    names = ["../out.txt", "/tmp/../out.txt", "a/../../out.txt", "plain.txt"]
    archive = MAKERS[kind](tmp_path / "in", dict.fromkeys(names, b"text"))
    before = sorted(tmp_path.rglob("*"))
    assert "plain.txt" in read_archive(archive, lambda name: True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_documents(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "a-1.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        info = tarfile.TarInfo("a-1/passwd.txt")
        info.type, info.linkname = kind, "/etc/passwd"
        opened.addfile(info)
    assert read_archive(archive, lambda name: True) == {}

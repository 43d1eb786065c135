"""Fetching with pip as it is, from a folder of wheels, and with an apt-get that a test writes; and the cache."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial as partial_of
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from memexp.data.sources import fetch as module
from memexp.data.sources.fetch import PIP, RECORD, Package, fetch
from memexp.data.sources.index import NotFound, _without_password, copy_archive, places
from memexp.errors import UserError
from memexp.files import checksum

from ...messages import says
from . import made

APT = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *indextargets*) printf '{releases}' ;;
  *update*) all="$*"; file=${{all##*SourceList=}}; cat "${{file%% *}}" >> {calls}.lists ;;
  *source*) printf dsc > made-up_2.0-3.dsc; printf archive > made-up_2.0.orig.tar.xz ;;
  *download*gone*) echo 'E: Unable to locate package gone' >&2; exit 100 ;;
  *download*two*) touch one.deb two.deb ;;
  *download*) printf archive > made-up_1%3a2.0-3_all.deb ;;
esac
"""


class Apt:
    """What stands for apt-get on the path."""

    def __init__(self, folder: Path) -> None:
        self._calls, self._program = folder / "calls", folder / "apt-get"
        self.has_lists("Debian|http://debian.example/debian bookworm main\\n|http://else.example stable main\\n")

    def has_lists(self, releases: str) -> None:
        self._program.write_text(APT.format(calls=self._calls, releases=releases))
        self._program.chmod(0o755)

    def listed(self) -> str:
        """The lists that it was told to update."""
        return self._calls.with_suffix(".lists").read_text()

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Apt(folder)


def debian(name: str, client: str = "apt", sha256: str | None = None) -> Package:
    return Package(client, name, None, sha256)


def refuses(package: Package, cache: Path, *words: str) -> None:
    """Checks that fetching ends with one line that has all of these words in it."""
    with pytest.raises(UserError, check=says(*words)):
        fetch(package, cache)


def partial(cache: Path) -> list[Path]:
    return list(cache.glob(".*"))


def test_a_wheel_through_pip_and_then_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, cache = tmp_path / "registry", tmp_path / "cache"
    registry.mkdir()
    wheel = made.wheel(registry / "made_up-1.0-py3-none-any.whl", made.metadata("made_up", "1.0"))
    monkeypatch.setattr(module, "PIP", (*PIP, "--no-index", f"--find-links={registry}"))
    package = Package("pip", "made-up", "1.0", checksum(wheel))
    fetched = fetch(package, cache)
    assert fetched.file.read_bytes() == wheel.read_bytes()
    assert fetched.version == "1.0"
    assert fetched.sha256 == checksum(wheel)
    assert partial(cache) == []

    monkeypatch.setattr(module, "PIP", ("no-such-program",))
    assert fetch(package, cache) == fetched
    wrong = f"SHA-256 {checksum(wheel)}", f"expected {'0' * 64}", f"Remove {fetched.file.parent}"
    refuses(package._replace(sha256="0" * 64), cache, str(fetched.file), *wrong)
    words = "no-such-program is not installed", "made-up", "copy data/downloads"
    refuses(package._replace(version="2.0"), cache, *words)


@pytest.mark.hard
def test_what_pip_cannot_find_and_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, cache = tmp_path / "registry", tmp_path / "cache"
    registry.mkdir()
    made.wheel(registry / "made_up-1.0-py3-none-any.whl", made.metadata("made_up", "1.0"))
    monkeypatch.setattr(module, "PIP", (*PIP, "--no-index", f"--find-links={registry}"))
    package = Package("pip", "made-up", "1.0", "0" * 64)
    refuses(package, cache, "pip cannot fetch made-up", "THESE PACKAGES DO NOT MATCH THE HASHES")
    none = "Could not find a version that satisfies the requirement made-up==2.0 "
    refuses(package._replace(version="2.0"), cache, "pip cannot fetch made-up", none)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(module, "PIP", (sys.executable, "-S", "-m", "pip"))  # without site-packages
    refuses(package, cache, "pip is not installed", "made-up")


def test_a_debian_package(tmp_path: Path, apt: Apt) -> None:
    cache = tmp_path / "cache"
    fetched = fetch(debian("made-up"), cache)
    assert fetched.version == "1:2.0-3"
    assert fetched.file.read_bytes() == b"archive"
    assert json.loads((fetched.file.parent / RECORD).read_text()) == {
        "file": fetched.file.name,
        "sha256": fetched.sha256,
    }
    asked = len(apt.calls())
    assert fetch(debian("made-up"), cache) == fetched
    assert len(apt.calls()) == asked


def test_the_source_of_a_debian_package(tmp_path: Path, apt: Apt) -> None:
    """The lists of sources are updated for the call alone, in a folder of their own."""
    fetched = fetch(debian("made-up", "apt-source"), tmp_path / "cache")
    assert fetched.version == "2.0"
    assert fetched.file.name == "made-up_2.0.orig.tar.xz"
    update, source = apt.calls()[1:]
    assert apt.listed() == "deb-src http://debian.example/debian bookworm main\n"
    assert update.endswith("update")
    assert source.endswith("source --download-only --tar-only made-up")
    assert "Dir::State::Lists=/" in update
    assert update.split("Lists=")[1].split()[0] in source


def test_apt_that_was_never_updated(tmp_path: Path, apt: Apt) -> None:
    apt.has_lists("|http://else.example stable main\\n")
    for client in ("apt", "apt-source"):
        refuses(debian("made-up", client), tmp_path / "cache", "apt-get has no", "`apt-get update`")
        assert list((tmp_path / "cache").iterdir()) == []


def test_what_apt_cannot_find_and_no_apt(tmp_path: Path, apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    refuses(debian("gone"), cache, "apt-get cannot fetch gone", "Unable to locate package gone", "release")
    refuses(debian("two"), cache, "2 files for two", "expected one archive")
    monkeypatch.setenv("PATH", str(tmp_path))
    refuses(debian("made-up"), cache, "apt-get is not installed", "made-up", "expected", "Debian or Ubuntu")


def test_a_damaged_or_half_made_cache(tmp_path: Path, apt: Apt) -> None:
    cache = tmp_path / "cache"
    fetched = fetch(debian("made-up"), cache)
    fetched.file.write_bytes(b"edited")
    refuses(debian("made-up"), cache, str(fetched.file), fetched.sha256, f"Remove {fetched.file.parent}")
    (fetched.file.parent / RECORD).unlink()  # as where a copy was cut off
    assert fetch(debian("made-up"), cache) == fetched
    assert fetched.file.read_bytes() == b"archive"
    fetched.file.unlink()
    refuses(debian("made-up"), cache, str(fetched.file), "No such file")


def test_a_cache_that_cannot_be_written(tmp_path: Path, apt: Apt) -> None:
    (tmp_path / "cache").write_text("a file")
    refuses(debian("made-up"), tmp_path / "cache", "cannot write", str(tmp_path / "cache"))


def test_what_another_process_has_fetched_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache" / "apt-made-up"

    def slow(package: Package, partial: Path) -> None:
        (partial / "one.deb").write_bytes(b"archive")
        folder.mkdir(parents=True)
        (folder / "read").write_text("by the other one")
        (folder / RECORD).write_text("{}")

    monkeypatch.setitem(module.CLIENTS, "apt", slow)
    module._download(debian("made-up"), folder)
    assert (folder / "read").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def source_registry(folder: Path, marker: Path) -> Path:
    """A registry with one source, whose build would leave a mark."""
    build = f"open({str(marker)!r}, 'w').close()\n".encode()
    backend = b'[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    files = {"setup.py": build, "pyproject.toml": backend, "docs/a.txt": b"text"}
    folder.mkdir()
    return made.source_archive(folder / "made_up-1.0.tar.gz", files, "made_up-1.0")


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("folder", "source"),
        pytest.param("html", "source", marks=pytest.mark.hard),
        pytest.param("json", "source", marks=pytest.mark.hard),
        pytest.param("folder", "", marks=pytest.mark.hard),
        pytest.param("html", "", marks=pytest.mark.hard),
    ],
)
def test_a_source_is_copied_and_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, place: str
) -> None:
    registry, marker = tmp_path / "registry", tmp_path / "built"
    archive = source_registry(registry, marker)
    sha256 = checksum(archive)
    page = registry / "simple" / "made-up"
    page.mkdir(parents=True)
    with served(registry) as address:
        if place == "html":
            (page / "index.html").write_text(f'<a href="../../{archive.name}#sha256={sha256}">{archive.name}</a>')
        elif place == "json":
            listed = [{"filename": archive.name, "url": f"../../{archive.name}", "hashes": {"sha256": sha256}}]
            (page / "index.html").write_text(json.dumps({"files": listed}))
        options = [f"--find-links={registry}", "--no-index"] if place == "folder" else [f"--index-url={address}/simple"]
        monkeypatch.setattr(module, "PIP", (*PIP, *options))
        package = Package("pip", "made-up", "1.0", sha256, form)
        fetched = fetch(package, tmp_path / "cache")
        assert fetched.file.read_bytes() == archive.read_bytes()
        where = places(module.PIP, "", "")
        assert copy_archive("Made.Up", "1.0", sha256, where, tmp_path).read_bytes() == archive.read_bytes()
        with pytest.raises(NotFound, match=r"no source archive of made-up==2\.0"):
            copy_archive("made-up", "2.0", sha256, where, tmp_path)
        with pytest.raises(NotFound, match="0000"):
            copy_archive("made-up", "1.0", "0" * 64, where, tmp_path)
    assert not marker.exists()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files; JSON is told by its first sign."""

    class Handler(SimpleHTTPRequestHandler):
        def guess_type(self, path: Any) -> str:
            file = Path(path)
            is_json = file.suffix == ".html" and file.read_text().startswith("{")
            return "application/vnd.pypi.simple.v1+json" if is_json else super().guess_type(path)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial_of(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_no_option_of_pip_lets_it_build() -> None:
    for form, options in module.FORMS.items():
        assert options is None or "--only-binary=:all:" in options, form


def test_where_pip_looks() -> None:
    configured = (
        ":env:.find-links='/wheels'\nglobal.cert='/ca.pem'\nglobal.extra-index-url='https://a/simple https://b/simple'\n"
        "global.index-url='https://user:word@own/simple'\nglobal.timeout='9'"
    )
    help = "Base URL of the Python Package Index (default\n        https://example/simple). This should point"
    found = places(["pip", "download", "--find-links=/more"], configured, help)
    assert found.indexes == ["https://user:word@own/simple", "https://a/simple", "https://b/simple"]
    assert (found.links, found.cert) == (["/wheels", "/more"], "/ca.pem")
    assert places(["pip", "--no-index"], configured, help).indexes == []
    assert places([], "", help).indexes == ["https://example/simple"]
    own = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--help"], capture_output=True, text=True, check=True
    )
    assert len(places([], "", own.stdout).indexes) == 1
    assert "word" not in _without_password(found.indexes[0])


def test_an_index_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://127.0.0.1:9/simple", "ftp://127.0.0.1/simple", f"file://{tmp_path}/none"):
        monkeypatch.setattr(module, "PIP", (*PIP[:3], f"--index-url={address}"))
        monkeypatch.setattr(module, "_run", lambda *_: "")
        refuses(
            Package("pip", "made-up", "1.0", "0" * 64, "source"), tmp_path / "cache", "made-up", "expected a download"
        )

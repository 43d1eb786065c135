"""Packages as documents, on packages made for the purpose and on the standard library."""

import sys
from pathlib import Path

import pytest

from memexp.config.checks import check
from memexp.config.sources import PythonPackagesOptions
from memexp.data.sources import PythonPackages
from memexp.errors import UserError

from ...messages import says


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package `made_up` of 5 modules, with tests, a vendored copy and generated code beside them."""
    root = tmp_path / "made_up"
    files = {
        "__init__.py": "top",
        "zeta.py": "z" * 70_000,
        "large/__init__.py": "l" * 40_000,
        "large/more.py": "m" * 40_000,
        "small/__init__.py": "small",
        "tests/test_it.py": "t" * 90_000,
        "_vendor/other.py": "v" * 90_000,
        "wire_pb2.py": "p" * 90_000,
        "notes.txt": "n" * 90_000,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "made_up"


def test_a_package_is_its_files_sorted_and_joined(package: str) -> None:
    (document,) = PythonPackages(PythonPackagesOptions(packages=[package], standard_library=False))
    assert document.id == document.group == package
    assert document.text == "\n".join(["top", "l" * 40_000, "m" * 40_000, "small", "z" * 70_000])


def test_a_large_package_is_cut_into_sub_packages(package: str) -> None:
    source = PythonPackages(PythonPackagesOptions(packages=[package], standard_library=False, cut_above=100_000))
    assert {document.id: len(document.text) for document in source} == {
        "made_up": len("top\nsmall\n") + 69_999 + 1,  # the small sub-package stays with the rest
        "made_up.large": 80_001,
    }
    assert {document.group for document in source} == {"made_up"}


def test_too_many_loose_modules_are_cut_too(package: str) -> None:
    source = PythonPackages(PythonPackagesOptions(packages=[package], standard_library=False, cut_above=65_000))
    sizes = {document.id: len(document.text) for document in source}
    # `large` is itself above the limit, but none of its modules is long enough to stand alone.
    assert sizes == {"made_up": len("top\nsmall"), "made_up.zeta": 70_000, "made_up.large": 80_001}


def test_absent_packages_are_named_and_left_out(package: str) -> None:
    source = PythonPackages(PythonPackagesOptions(packages=[package, "no_such_package"], standard_library=False))
    assert [document.id for document in source] == [package]
    assert source.describe()["absent"] == ["no_such_package"]
    with pytest.raises(UserError, check=says("no_such_package", "installed")):
        PythonPackages(PythonPackagesOptions(packages=["no_such_package"], standard_library=False))


def test_memexp_itself_is_refused() -> None:
    with pytest.raises(UserError, check=says("packages", "memexp")):
        check(PythonPackagesOptions(packages=["memexp"]))


def test_versions_and_licences_are_told() -> None:
    parts = PythonPackages(
        PythonPackagesOptions(packages=["json", "csv", "jinja2"], standard_library=False)
    ).describe()["parts"]
    assert [part["name"] for part in parts] == ["Python standard library", "jinja2"]
    assert parts[0]["licence"] == "PSF-2.0"
    assert sys.version.startswith(parts[0]["version"])
    assert "BSD" in parts[1]["licence"]


def test_the_standard_library_is_all_there() -> None:
    documents = {document.id: document for document in PythonPackages(PythonPackagesOptions())}
    assert {"asyncio", "email", "json", "argparse", "typing"} <= set(documents)
    assert not {"test", "site-packages", "encodings", "pydoc_data", "distutils", "textwrap"} & set(documents)
    assert "class JSONDecoder" in str(documents["json"].text)
    assert "class JSONEncoder" in str(documents["json"].text)
    assert len(documents) >= 35

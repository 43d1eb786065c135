"""conf/data as it is composed, and `memexp prepare` with it."""

from pathlib import Path

import pytest
import yaml
from hydra.errors import ConfigCompositionException

from memexp.cli.commands.prepare import run
from memexp.config.commands import PrepareConfig
from memexp.config.compose import compose, typed
from memexp.config.groups import Data
from memexp.data.sources import PythonPackages, open_source

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))


def composed(name: str, *overrides: str) -> Data:
    """The settings that `data=name` stands for."""
    config = typed(compose("prepare", [f"data={name}", *overrides]))
    assert isinstance(config, PrepareConfig)
    return config.data


@pytest.mark.parametrize("name", NAMES)
def test_every_corpus_composes_and_its_source_takes_its_options(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    data = composed(name, *([f"data.path={tmp_path}"] if name == "text" else []))
    assert data.name == name
    source = open_source(data, tmp_path)
    if isinstance(source, PythonPackages):
        assert source.describe()["absent"] == []


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigCompositionException):
        composed("tiny", "data.min_documents=3")


def test_code_names_no_package_twice_and_not_this_one() -> None:
    packages = yaml.safe_load((CONF / "data" / "code.yaml").read_text())["source"]["packages"]
    assert packages == sorted(set(packages))
    assert "memexp" not in packages


def test_prepare_tells_what_was_made_and_that_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = PrepareConfig(data=composed("tiny"), root=str(tmp_path))
    run(config)
    first = capsys.readouterr().out
    assert "PSF-2.0" in first
    assert "prepared in" in first
    # The name of old: a setting that is new must not have what is prepared already prepared once more.
    assert (tmp_path / "data" / "tiny-bpe512-789d3b04").exists()
    assert [line.split()[1] for line in first.splitlines() if line.startswith("│")] == ["train", "valid", "test"]
    run(config)
    assert "was prepared already" in capsys.readouterr().out


@pytest.mark.parametrize("odd", ["root", "path"])
def test_signs_in_a_path_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: str) -> None:
    folders = {name: tmp_path / ("[/mine]" if name == odd else "plain") / name for name in ("root", "path")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number in range(20):
        (folders["path"] / f"{number}.txt").write_text(f"text {number}")
    numbers = "data.valid_documents=2", "data.test_documents=2"
    data = composed("text", f"data.path='{folders['path']}'", "data.tokenizer.kind=bytes", *numbers)
    run(PrepareConfig(data=data, root=str(folders["root"])))
    assert f"/[/mine]/{odd}" in "".join(line.strip() for line in capsys.readouterr().out.splitlines())

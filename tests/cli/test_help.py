"""Help: complete, with the values that hold, and quick because it imports little."""

import pytest

from memexp.config.commands import COMMANDS
from memexp.config.introspection import TYPED_AS, choices_of, is_offered, settings_of

from ..messages import says

HEAVY = ("torch", "hydra", "omegaconf", "rich", "yaml", "numpy")


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["-h"]])
def test_overview_lists_every_command(words, memexp) -> None:
    result = memexp(*words)
    assert result.code == 0
    assert all(f"  {name} " in result.out for name in [*COMMANDS, "completion"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_every_setting(command, memexp) -> None:
    result = memexp(command, "--help")
    arch = "vanilla" if command == "train" else None
    words = result.out.split()
    assert result.code == 0
    assert result.settings == []
    known = settings_of(command, arch=arch, source="python_packages")  # which data=code reads
    names = [TYPED_AS.get(name, name) for name in known if is_offered(name)]
    assert [name for name in names if name not in words] == []
    assert f"memexp {command}" in result.out


def row(result, setting: str) -> str:
    return next(line for line in result.out.splitlines() if line.split()[:1] == [setting])


def test_values_are_those_of_the_command_line(memexp) -> None:
    result = memexp("train", "--help", "arch=knn", "steps=2k")
    assert row(result, "mem").split()[1] == "4096"
    assert row(result, "steps").split()[1] == "2000"
    assert "64k allowed; 0 or more" in row(result, "mem")
    assert "in steps; 0 or more" in row(result, "steps")
    assert row(result, "arch.neighbours").split()[1] == "32"
    assert "gate | joint" in row(result, "arch.combine")
    assert "arch.cache" not in memexp("train", "arch=xl", "--help").out


def test_groups_are_listed_with_their_choices_and_units_of_mem(memexp) -> None:
    result = memexp("train", "--help")
    for group in ("arch", "data", "size", "optim", "tracker"):
        assert set(choices_of(group)) <= set(result.out.split())
    assert "vanilla *" in result.out
    assert "knn *" not in result.out
    assert "pairs per lane and head" in result.out
    assert "true | false" in row(result, "skip_refused")


def test_options_of_a_corpus_are_listed_as_its_class_describes_them(memexp) -> None:
    out = memexp("prepare", "--help", "data=text", "data.source.field=body").out
    line = next(line for line in out.splitlines() if "data.source.field" in line)
    assert line.split()[1] == "body"
    assert "where a row's text stands, in JSON lines and Parquet files" in line
    out = memexp("prepare", "--help", "data=pg19").out  # described by the class that it is derived from
    assert "how many are read of each split or file, its first; 0: all" in out
    assert "data.source.path" not in out


def test_wrong_settings_are_refused_in_one_line(memexp) -> None:
    result = memexp("train", "--help", "arch=knnn")
    assert result.code == 2
    names = ", ".join(choices_of("arch"))
    assert says("memexp train: ", "arch=knnn", f"expected one of {names}", "did you mean knn?")(result.err)


@pytest.mark.parametrize(
    "words", ["['--help']", "['--version']", "[]", "['completion', 'bash']", "['__complete', 'train', 'arch=']"]
)
def test_quick_ones_import_nothing_heavy(words, process) -> None:
    program = f"import sys; from memexp.cli.main import main; main({words}); print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    assert process("-c", program).stderr == "[]\n"


def test_help_of_a_command_imports_no_torch(process) -> None:
    program = "import sys; from memexp.cli.main import main; main(['train', '--help']); print('torch' in sys.modules, file=sys.stderr)"
    assert process("-c", program).stderr == "False\n"

"""Places to write to: what cannot be written is refused before any work, and no device, pipe or folder is ever replaced."""

import os
from pathlib import Path

import pytest

from memexp.cli.main import main
from memexp.config.commands import COMMANDS
from memexp.config.introspection import settings_of
from memexp.errors import UserError
from memexp.files import write_atomically, write_json, write_sealed, write_text, write_together

from ..messages import says

WORDS = {"diff": ["a", "b"], "data": ["inspect", "data=tiny"]}
"""Words that a command needs besides `out`."""

WRITES = {
    "atomic": lambda path: write_atomically(path, b"x"),
    "text": lambda path: write_text(path, "x"),
    "json": lambda path: write_json(path, ["x"]),
    "sealed": lambda path: write_sealed(path, {"x": 1}),
    "together": lambda path: write_together(path.parent, {path.name: b"x"}, summary={}),
}


@pytest.mark.hard
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no run and no corpus, so that whatever looked for them first would name them."""
    (empty / "file").write_text("as it was")
    os.mkfifo(empty / "pipe")
    (empty / "device").symlink_to("/dev/null")
    walked = 0
    for command in COMMANDS:
        if "out" not in settings_of(command):
            continue
        # report writes a file, the others into a folder; a fault in it must not cost this machine its /dev/null
        others = [empty] if command == "report" else [empty / "file", empty / "device"]
        for place in (empty / "pipe", empty / "file" / "x", *others):
            assert main([command, *WORDS.get(command, []), f"out={place}", f"root={empty}"]) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            assert says("cannot write", str(place), "expected")(printed.err)
            walked += 1
    assert walked == 15
    assert sorted(path.name for path in empty.iterdir()) == ["device", "file", "pipe"]
    assert (empty / "file").read_text() == "as it was"


@pytest.mark.parametrize("kind", WRITES)
def test_only_files_are_replaced(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "folder", "device"):
        with pytest.raises(UserError, check=says("cannot write", name, "expected a file")):
            WRITES[kind](tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["device", "folder", "pipe"]

"""Commands on a file system without locks: a library that is loaded first makes every flock fail."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..messages import says
from ..tiny import TINY

SOURCE = "#include <errno.h>\nint flock(int file, int operation) { errno = NUMBER; return -1; }\n"


def without_locks(number: int, folder: Path, environment: dict[str, str]) -> dict[str, str]:
    if sys.platform != "linux" or (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("needs Linux and a C compiler")
    (folder / "flock.c").write_text(SOURCE.replace("NUMBER", str(number)))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "flock.so", "flock.c"], cwd=folder, check=True)
    return environment | {"LD_PRELOAD": str(folder / "flock.so")}


def call(root: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "memexp", *words, f"root={root}"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.hard
def test_every_command_works_where_flock_is_not_known(tmp_path: Path, environment: dict[str, str]) -> None:
    there = without_locks(errno.ENOSYS, tmp_path, environment)
    root = tmp_path / "root"
    root.mkdir()
    for words in (
        ("prepare", "data=tiny"),
        ("train", *TINY, "arch=vanilla", "steps=6", "checkpoint_every=2"),
        ("train", *TINY, "arch=vanilla", "steps=6", "checkpoint_every=2"),
        ("train", *TINY, "arch=knn", "mem=64"),
        ("eval", "knn", "device=cpu", "mem=32"),
        ("diff", "vanilla", "knn"),
        ("runs",),
        ("table",),
        ("data",),
        ("reproduce", "memorizing/table4", "--dry-run"),
    ):
        done = call(root, there, *words)
        assert done.returncode == 0, (words, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.hard
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_every_command_refuses_in_one_line_where_locks_are_refused(
    number: int, root: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    there = without_locks(number, tmp_path, environment)
    (tmp_path / "new").mkdir()
    for where, words in ((tmp_path / "new", ("prepare", "data=tiny")), (root, ("train", *TINY))):
        done = call(where, there, *words)
        assert done.returncode == 2, (words, done.stderr)
        assert says("cannot lock", "expected a file system with locks")(done.stderr.splitlines()[-1])

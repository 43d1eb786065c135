"""Processes that stay while a module's tests run, because starting them and loading torch takes most of the time."""

import base64
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from memexp.ranks.place import LISTENING

CHECKOUT = Path(__file__).resolve().parents[2]

HANG = 200.0
"""Seconds after which a group counts as one that never answers."""


class Group:
    """Processes that have joined each other over gloo."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `close`
        with socket.create_server(("127.0.0.1", 0)) as meeting:
            self.processes = [self._start(rank, meeting) for rank in range(ranks)]

    def _start(self, rank: int, meeting: socket.socket) -> subprocess.Popen[str]:
        environment = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": str(self.ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(meeting.getsockname()[1]), LISTENING: str(meeting.fileno()), "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(CHECKOUT),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.ranks.program"], env=environment, text=True, cwd=CHECKOUT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, pass_fds=[meeting.fileno()] * (rank == 0),
        )  # fmt: skip

    def __call__(self, function: Callable[..., Any], **arguments: Any) -> list[Any]:
        """What a function of a module that all can import returns in each process, by rank."""
        line = base64.b64encode(pickle.dumps(("tests.ranks.work", function.__name__, arguments))).decode()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self.processes]
        wrong = [value for done, value in answers if not done]
        assert not wrong, f"{wrong}\n{self._log()}"
        return [value for _, value in answers]

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], HANG)
        line = process.stdout.readline() if ready else ""
        assert line, f"no answer: {self._log()}"
        return pickle.loads(base64.b64decode(line))

    def _log(self) -> str:
        self.said.seek(0)
        return self.said.read()[-4000:]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.said.close()


@pytest.fixture(scope="session")
def groups() -> Iterator[Callable[[int], Group]]:
    """The group of so many processes, which is started when it is first asked for."""
    found: dict[int, Group] = {}
    with ExitStack() as ending:

        def of(ranks: int) -> Group:
            if ranks not in found or any(process.poll() is not None for process in found[ranks].processes):
                found[ranks] = Group(ranks)
                ending.callback(found[ranks].close)
            return found[ranks]

        yield of


@pytest.fixture
def roots(prepared: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes roots without runs, with the prepared corpus."""

    def make(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        (root / "data").symlink_to(prepared / "data")
        return root

    return make

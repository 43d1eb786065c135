"""Two machines that are none: each is a network of its own, and a cable that is none either joins them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from memexp.store.folder import all_runs

from ..tiny import TINY
from .test_together import CHECKOUT, HANG, lines

pytestmark = pytest.mark.hard

CABLE = "eth0"


class Host(NamedTuple):
    """A network namespace."""

    name: str
    address: str

    def run(self, *words: str, **options: object) -> "subprocess.Popen[str]":
        """A program that sees the network of this machine alone."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *words],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )  # type: ignore[call-overload, no-any-return]

    @property
    def received(self) -> int:
        """Bytes that came through the cable."""
        with self.run("cat", f"/sys/class/net/{CABLE}/statistics/rx_bytes") as process:
            return int(process.communicate()[0])


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two machines; skipped where nobody may make them."""
    found = [Host(f"memexp-{os.getpid()}-{number}", f"10.231.7.{number}") for number in (1, 2)]
    first, second = (host.name for host in found)
    with ExitStack() as ending:
        for host in found:
            _ip("netns", "add", host.name)
            ending.callback(subprocess.run, ["ip", "netns", "delete", host.name], check=False, capture_output=True)
        _ip("link", "add", CABLE, "netns", first, "type", "veth", "peer", "name", CABLE, "netns", second)
        for host in found:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", CABLE)
            for interface in ("lo", CABLE):
                _ip("-n", host.name, "link", "set", interface, "up")
        yield found


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], text=True, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no ip (iproute2), which makes the networks")
    if done.returncode:
        pytest.skip(f"no networks of one's own: ip {' '.join(words)}: {done.stderr.strip()}")


def test_torchrun_on_two_machines(hosts: list[Host], roots: Callable[[str], Path]) -> None:
    root = roots("two")
    words = [
        *TINY,
        f"root={root}",
        "lanes=4",
        "arch=xl",
        "steps=4",
        "optim.warmup=1",
        "devices=1",
        "nodes=2",
        "shard_weights=true",
    ]
    environment = os.environ | {
        "PYTHONPATH": str(CHECKOUT),
        "GLOO_SOCKET_IFNAME": CABLE,
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    torchrun = [
        sys.executable, "-P", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"{hosts[0].address}:29500", "--local-addr",
    ]  # fmt: skip
    with ExitStack() as ending:
        started = []
        for host in hosts:
            # torchrun takes the machine for that of the first process whose own name leads to the address
            first = ["--rdzv-conf", f"is_host={str(host == hosts[0]).lower()}"]
            process = host.run(
                *torchrun, host.address, *first, "-m", "memexp", "train", *words, env=environment, cwd=root
            )
            ending.callback(process.communicate)
            ending.callback(process.terminate)
            started.append(process)
        said = [process.communicate(timeout=HANG) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert sorted("perplexity" in out for out, _ in said) == [False, True]
    assert all(lines(err) == [] for _, err in said), said
    (run,) = all_runs(root)
    assert run.summary is not None
    assert run.summary["devices"] == 2
    for host in hosts:  # the gradients of four steps, at least
        assert host.received > 4 * 4 * run.summary["parameters"]

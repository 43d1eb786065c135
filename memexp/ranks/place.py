"""Which of the processes of a run this one is, from what a launcher put into the environment. Never loads torch."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from memexp.errors import UserError


class Place(NamedTuple):
    """One of the processes that share the lanes of a run, a device each."""

    rank: int
    """Which one this is, counted from 0. Only the first prints, tracks and writes the run folder."""
    ranks: int
    local_rank: int
    """Counted on this machine: the GPU that it takes."""
    host: str
    """The machine of the first process, where all meet."""
    port: int

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.ranks} processes"


LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, `memexp train devices=N`, and most schedulers of containers
    # srun; a batch script has SLURM_NTASKS too, but is no task of a step
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),  # submitit without Slurm
)
"""Variables in which launchers say the number of a process, of all processes, and the number on its machine."""

LISTENING = "MEMEXP_LISTENING"
"""Environment variable: the number of an open socket on which the first process waits for the others; `memexp train devices=N` sets it."""

LOST = 75
"""Exit code of a process whose others have ended. They, or what started them, say why."""

PORTS = 20_000
"""Ports of jobs are taken from here on, as many as this."""


def place_of(environment: Mapping[str, str] | None = None) -> Place | None:
    """The place of this process; None if no launcher has started several.

    Args:
        environment: the environment variables; default: those of this process.

    Raises:
        UserError: a variable is no number, or its number makes no sense.
    """
    given = os.environ if environment is None else environment
    for names in LAUNCHERS:
        if not all(name in given for name in names[:2]):
            continue
        rank, ranks, local_rank = (_number(given, name) for name in names)
        if rank >= ranks:
            raise UserError(
                f"{names[0]} is {rank} and {names[1]} is {ranks}; expected a number below that of all processes"
            )
        if ranks > 1:
            return Place(rank, ranks, local_rank, _host(given), _port(given))
    return None


def share(count: int, rank: int, ranks: int) -> slice:
    """Which of `count` lanes a process has: they are shared out in order, and evenly."""
    return slice(rank * count // ranks, (rank + 1) * count // ranks)


def check_number(place: Place | None, wanted: int) -> None:
    """Refuse another number of processes than the settings ask for.

    Args:
        wanted: devices of all nodes; 0 takes what was started.

    Raises:
        UserError: says how many there are.
    """
    if place is not None and wanted not in (0, place.ranks):
        raise UserError(
            f"devices times nodes is {wanted}, but {place.ranks} processes were started; expected as many. Leave devices out, or "
            "start one process for each device"
        )


def seconds_of(name: str, default: float) -> float:
    """A time from the environment, in seconds.

    Raises:
        UserError: the variable holds no positive number.
    """
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not float(text):
        raise UserError(f"the environment variable {name} is {text!r}; expected a positive number of seconds")
    return float(text)


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "0")
    if not text.isascii() or not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}; expected the number that a launcher sets")
    return int(text)


def _host(given: Mapping[str, str]) -> str:
    """Where the first process is: as torchrun says, or on the first of several machines of a job.

    Of one machine the name does not matter, and Slurm's name for it may be none that the network knows.
    """
    nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST") or ""
    several = "," in nodes or "[" in nodes
    return given.get("MASTER_ADDR") or (first_node(nodes) if several else "127.0.0.1")


def _port(given: Mapping[str, str]) -> int:
    """The port there: as torchrun says, or one that follows from the number of the job and of its step."""
    if "MASTER_PORT" in given:
        return _number(given, "MASTER_PORT")
    numbers = re.findall(r"[0-9]+", given.get("SLURM_JOB_ID") or given.get("SUBMITIT_LOCAL_JOB_ID") or "")
    job, step = sum(map(int, numbers)), given.get("SLURM_STEP_ID", "0")
    return PORTS + (job * 7 + (int(step) if step.isdecimal() else 0)) % PORTS


def first_node(nodes: str) -> str:
    """The first machine of a list as Slurm writes it, such as `gpu[03-05,9],login1`."""
    name = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in name.groups()) if name else ""

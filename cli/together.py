"""A command in several processes that share its work: found started by torchrun or srun, or started here on one machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from memexp.config.commands import EvalConfig
from memexp.config.train import TrainConfig
from memexp.errors import USER_ERROR, UserError
from memexp.ranks.place import LOST, Place, check_number, place_of
from memexp.terminal import same_command, typed_words

Config = TypeVar("Config", TrainConfig, EvalConfig)

ANOTHER_ENDED = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection was likely closed", "NCCL",
    "Socket closed", "recvValue failed", "sendBytes failed", "Application timeout", "Connection refused",
)  # fmt: skip
"""Words in PyTorch's errors when another process has ended."""


def in_all_processes(work: Callable[[Config], None], config: Config) -> None:
    """Do a command's work in as many processes as its settings ask for, or as a launcher has started; in one if neither says.

    Raises:
        UserError: another number of processes was started, several machines are asked for and nothing has started processes there, or
            there is no command that several processes could run.
        SystemExit: this process only started the others; or another one has said why all of them end.
    """
    wanted, place = config.devices * config.nodes, place_of()
    check_number(place, wanted)
    if place is not None:
        with _joined(place, config):
            work(config)
    elif config.nodes > 1:
        raise UserError(
            f"nodes is {config.nodes}, but no launcher has started processes on them; expected launcher=slurm, or "
            f"{same_command()} through torchrun or srun on all machines, a process for each device"
        )
    elif wanted > 1:
        from memexp.cli.workers import run_workers

        if not (words := typed_words()):  # as in a job of another launcher of Hydra's, in a process of its own
            raise UserError(
                f"devices is {config.devices}, but no command was typed that other processes could repeat; expected it with "
                "launcher=local or launcher=slurm"
            )
        raise SystemExit(run_workers(wanted, name=f"memexp {words[0]}"))
    else:
        work(config)


@contextmanager
def _joined(place: Place, config: Any) -> Iterator[None]:
    """Join the other processes; all but the first are silent, unless they are the first to fail."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # before torch is loaded: it would say that connections end
    from memexp.device import pick_device
    from memexp.ranks import exchange, watch

    try:
        with _silent(place.rank > 0):
            exchange.join(place, on_gpu=pick_device(config.device).type == "cuda")
            yield
        exchange.wait()  # the first one keeps what the others ask for
    except exchange.SaidByFirst:
        raise SystemExit(USER_ERROR) from None
    except exchange.SaidByAnother:
        exchange.until_said()
        raise SystemExit(LOST) from None
    except Exception as error:
        if isinstance(error, RuntimeError) and any(words in str(error) for words in ANOTHER_ENDED):
            raise SystemExit(LOST) from None
        if not exchange.speaks():
            raise SystemExit(LOST) from None
        if place.rank:
            error.add_note(str(place))
        raise
    finally:
        watch.end()
    exchange.leave()


@contextmanager
def _silent(asked: bool) -> Iterator[None]:
    if not asked:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield

"""Our training steps beside those of packages that implement the same papers, which run in an environment of their own."""

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import torch

from memexp.bench.measurement import Figure, Say, Side, about, in_turn, timed
from memexp.bench.workload import Work, block, knn, our_step, rmt
from memexp.config.commands import BenchConfig
from memexp.errors import UserError

OVER_PEER = 0.5
"""Largest wanted time of our step, relative to the peer's."""
ENVIRONMENT = ".venv-peers"
PROGRAM = Path(__file__).with_name("peer_step.py")
MEMORY_TOKENS = 32
LONG = 3
"""Largest number of rounds."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time of our step and of theirs, at equal shape and with as many threads, measured in turn.

    Raises:
        UserError: the packages are not installed.
    """
    python = Path(sys.prefix).parent / ENVIRONMENT / "bin" / "python"
    if not python.exists():
        raise UserError(
            f"{python.parents[1]} does not exist; expected an environment with the peers' packages. `make bench-peers` makes it, and "
            "measures them"
        )
    numbers = asdict(work) | {"slots": config.smaller, "states": work.segment, "memory_tokens": MEMORY_TOKENS}
    ours = {
        "memorizing-transformers-pytorch": our_step(knn(work), mem=config.smaller, work=work),
        "block-recurrent-transformer-pytorch": our_step(block(work), mem=work.segment, work=work),
        "recurrent-memory-transformer-pytorch": our_step(rmt(), mem=MEMORY_TOKENS, work=work),
    }
    figures = []
    for peer, step in ours.items():
        say(f"starting {peer}")
        with ExitStack() as open_until_measured:
            command = [str(python), str(PROGRAM), peer, json.dumps(numbers), str(torch.get_num_threads())]
            process = open_until_measured.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            theirs = _side(process, peer)
            theirs()  # to warm up
            sides = {"ours": timed(step), "theirs": theirs}
            seconds = in_turn(sides, repeats=min(LONG, config.repeats), say=about(peer, say))
            assert process.stdin is not None
            process.stdin.close()
        name = peer.removesuffix("-pytorch").removesuffix("-transformers").removesuffix("-transformer")
        figures.append(
            Figure(
                f"step beside {name}", "ours", peer, "s", seconds["ours"], seconds["theirs"], ratio_at_most=OVER_PEER
            )
        )
    figures[0] = replace(
        figures[0],
        note=f"memories of {config.smaller:,} full slots, theirs with an approximate index; {numbers['states']} state vectors; "
        f"{MEMORY_TOKENS} memory tokens and no cache",
    )
    return figures


def _side(process: "subprocess.Popen[str]", peer: str) -> Side:
    def side() -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("step\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise UserError(
                f"{peer} stopped with code {process.wait()}; expected a step. `make bench-peers` installs it again"
            )
        return float(answer)

    return side

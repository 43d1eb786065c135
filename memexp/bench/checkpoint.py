"""What each memory costs a published checkpoint: time to read one more segment, and bytes kept, beside full attention.

Its quality is another table, `checkpoints/memories`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from memexp.bench.measurement import Figure, Say, about, in_turn, timed
from memexp.bench.workload import filled
from memexp.config.commands import BenchConfig
from memexp.config.train import TrainConfig
from memexp.device import pick_device
from memexp.errors import UserError
from memexp.model.build import build_model
from memexp.model.pretrained.load import load
from memexp.model.segment import SegmentModel
from memexp.model.state import state_bytes

AUTO = "auto"
FULL = "full attention"
MEMORIES = {
    "no memory": "arch=vanilla",
    "cache with sinks": "arch=xl mem={segment}",
    "kNN memory in all layers": "arch=knn mem={read}",
    FULL: "arch=xl mem={read}",
}
"""Settings of each memory, after so many tokens of text."""


@dataclass(frozen=True)
class Reading:
    """What is read."""

    checkpoint: str
    segment: int = 512

    def describe(self) -> str:
        """The sizes in one line."""
        return (
            f"{Path(self.checkpoint).name}, one lane, segments of {self.segment} tokens, fp32, on {pick_device(AUTO)}"
        )


def measure(config: BenchConfig, work: Reading, say: Say, settings_of: Callable[..., TrainConfig]) -> list[Figure]:
    """The time to read a segment after `slots` tokens, and after an eighth of them; memories are full of random pairs.

    A memory that this checkpoint cannot have is left out, with a line that says why.

    Args:
        settings_of: composes the settings of a training run.

    Raises:
        UserError: there is no such checkpoint, none that memexp can read, or one that cannot attend to its whole past.
    """
    figures = []
    words = ["size=checkpoint", f'size.checkpoint="{work.checkpoint}"', f"segment={work.segment}", "precision=fp32"]
    network = load(settings_of(*words, "arch=vanilla").size)
    for read in (config.smaller, config.slots):
        models: dict[str, SegmentModel] = {}
        for name, memory in MEMORIES.items():
            try:
                run = settings_of(*words, *memory.format(segment=work.segment, read=read).split())
                model = build_model(run, vocabulary=network.head.vocabulary, network=network)
            except UserError as error:
                if name == FULL:  # nothing is left to compare with
                    raise
                say(f"left out {name}: {error}")
                continue
            models[name] = model.eval().to(pick_device(AUTO))
        say(f"warming up for {read:,} tokens")
        sides = {name: timed(reading(model, segment=work.segment)) for name, model in models.items()}
        seconds = in_turn(sides, repeats=config.repeats, say=about(f"{read:,} tokens", say))
        figures += [
            Figure(
                f"{name} after {read:,} tokens",
                name,
                FULL,
                "s",
                seconds[name],
                seconds[FULL],
                facts={
                    "milliseconds a token": median(seconds[name]) / work.segment * 1e3,
                    "MiB kept": state_bytes(models[name].init_state(1)) / 2**20,
                },
            )
            for name in models
        ]
    return figures


def reading(model: SegmentModel, *, segment: int) -> Callable[[], None]:
    """Reads a segment of random text with a full memory, always the same, so that every round does the same work."""
    torch.manual_seed(0)
    text_BT = torch.randint(model.head.vocabulary, (1, segment + 1)).to(pick_device(AUTO))
    valid_BT = torch.ones_like(text_BT[:, 1:], dtype=torch.bool)
    reset_B = torch.zeros(1, dtype=torch.bool, device=text_BT.device)
    state = filled(model.init_state(1))

    @torch.no_grad()
    def read() -> None:
        output = model(text_BT[:, :-1].contiguous(), valid_BT, state, reset_B)
        model.head.nats(output.hidden_BTD, text_BT[:, 1:].contiguous()).sum().item()  # waits for the device

    return read

"""The settings in which the runs of two scores differ besides the memory: a gain can come from any of them."""

from functools import cached_property
from pathlib import Path
from typing import Any

from memexp.config.field import UNSET, default_of
from memexp.config.groups import DEFAULTS_AT_SIZE
from memexp.config.introspection import flatten, settings_of
from memexp.config.train import NOT_OF_THE_RESULT
from memexp.report.difference.tokens import Difference
from memexp.store.folder import Run
from memexp.store.identity import revisions_of
from memexp.store.scores import TokenScores
from memexp.wording import whole

OF_THE_MEMORY = ("mem",)
"""What the names of scores tell already."""

_FOLLOW = ("arch._target_", "size.name", "size.rate", "size.memory", "size.routed", "data.name", "data.source._target_")
"""Settings that change nothing by themselves: other settings, which are compared, take their values from them."""

_DEFAULTS = tuple(f"size.{name}." for name in DEFAULTS_AT_SIZE)


class Side:
    """The run of one of the scores."""

    def __init__(self, scores: TokenScores) -> None:
        self.run = Run(scores.path.parents[1])

    @property
    def tokens(self) -> int | None:
        """Tokens that it was trained on; None if it does not say."""
        return (self.run.summary or {}).get("tokens")

    @property
    def trained(self) -> str:
        """What its weights come from, for a reader."""
        start = self.run.config.get("init_from")
        if start and not self.tokens:
            return f"with the weights of {Path(str(start)).name}, trained on no more"
        return f"trained on {whole(self.tokens)} tokens"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting that determines the result, by dotted name, and the revisions of the identity."""
        config = {key: value for key, value in self.run.config.items() if key not in NOT_OF_THE_RESULT}
        flat = flatten(config)
        arch = flat.get("arch.name")
        items = settings_of("train", arch=arch)
        known = {name: default_of(item) for name, item in items.items()}
        speed = [name for name, item in items.items() if item.metadata["effect"] == "speed"]
        own = {name: value for name, value in known.items() if name.partition(".")[0] in config and value != UNSET}
        kept = {name: value for name, value in {**own, **flat}.items() if _determines(name) and name not in speed}
        return kept | {"revisions": revisions_of(self.run)}


def differing(diff: Difference) -> dict[str, tuple[Any, Any]]:
    """The values in A and B of every setting in which their runs differ; None where the run has no such setting.

    An option that only one of two architectures has follows from `arch.name` and is left out, as are options of other sources.
    """
    a, b = (Side(scores).settings for scores in (diff.a, diff.b))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name) and name not in OF_THE_MEMORY]
    return {
        name: (a.get(name), b.get(name))
        for name in names
        if (name in a and name in b) or not name.startswith(("arch.", "data.source."))
    }


def told(value: Any) -> str:
    """A value as text: a number with its separators, a list with commas."""
    if isinstance(value, list):
        return ", ".join(map(told, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _determines(name: str) -> bool:
    return name not in _FOLLOW and not name.startswith(_DEFAULTS)

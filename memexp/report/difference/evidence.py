"""The evidence of a difference as bars: where the gain is, how few tokens make it, and what another document's memory leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TITLES = {
    "by_distance": ("By distance to the last occurrence of the same token in the document", "tokens before"),
    "by_kind": ("By kind of token", "kind"),
    "by_frequency": ("By frequency in the scored text", "times"),
    "by_position": ("By position among the scored tokens of a document", "position"),
}
"""The tables of groups by their key in summary.json: a title, and the head of the column of labels."""


@dataclass(frozen=True)
class Bar:
    """A group of tokens with a bar for its mean gain.

    Attributes:
        share: its share of the summed gain; None if that is not known.
        start, width: of the bar, in percent of the room for bars.
        zero: where no gain is, likewise.
    """

    label: str
    tokens: int
    gain: float
    share: float | None
    start: float
    width: float
    zero: float


@dataclass(frozen=True)
class Bars:
    """A table of groups, with bars on one scale."""

    title: str
    head: str
    bars: Sequence[Bar]


def bars(key: str, groups: Sequence[Mapping[str, Any]]) -> Bars:
    """The groups of `key` in summary.json, each with `label`, `tokens`, `gain` and, if it is known, `share`."""
    title, head = TITLES[key]
    gains = [float(group["gain"]) for group in groups]
    low, high = min([0.0, *gains]), max([0.0, *gains])
    scale = 100 / (high - low or 1.0)
    return Bars(
        title,
        head,
        [
            Bar(
                str(group["label"]), int(group["tokens"]), gain, group.get("share"),
                (min(gain, 0.0) - low) * scale, abs(gain) * scale, -low * scale,
            )
            for group, gain in zip(groups, gains, strict=True)
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What says most about a difference.

    Attributes:
        gain: mean gain in nats a token.
        half: the share of the tokens that make half of all gains.
        foreign: mean gain with another document's memory; None if that is not scored.
        first: where the gain is, by distance and by kind.
    """

    gain: float
    half: float
    foreign: float | None
    first: Sequence[Bars]

    @property
    def remains(self) -> float | None:
        """The share of the gain that another document's memory gives too; None without a gain."""
        return None if self.foreign is None or self.gain <= 0 else self.foreign / self.gain

    @property
    def longest(self) -> float:
        """The larger of the two gains, for bars of both."""
        return max(abs(self.gain), abs(self.foreign or 0.0)) or 1.0


def evidence(summary: Mapping[str, Any]) -> Evidence:
    """The evidence in the content of summary.json."""
    first = [bars(key, summary[key]) for key in ("by_distance", "by_kind") if summary.get(key)]
    return Evidence(summary["gain"], summary["half"], summary["foreign_gain"], first)

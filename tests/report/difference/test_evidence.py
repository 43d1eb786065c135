"""The bars that show a difference: their lengths follow the numbers, on one scale, from one zero."""

from typing import Any

import pytest

from memexp.report.difference.evidence import TITLES, bars, evidence


def group(gain: float, **more: Any) -> dict[str, Any]:
    return {"label": f"of {gain}", "tokens": 4, "gain": gain, "share": None} | more


@pytest.mark.parametrize("gains", [[1.0, -0.5, 0.25], [1.0, 0.5], [-1.0, -0.5], [0.0, 0.0], []])
def test_bars_are_as_long_as_their_numbers_and_fit(gains: list[float]) -> None:
    table = bars("by_kind", [group(gain) for gain in gains])
    longest = max([0.0, *gains]) - min([0.0, *gains])
    for bar, gain in zip(table.bars, gains, strict=True):
        assert bar.width == pytest.approx(100 * abs(gain) / longest if longest else 0.0)
        assert bar.start == pytest.approx(bar.zero if gain >= 0 else bar.zero - bar.width)
        assert 0 <= bar.start <= bar.start + bar.width <= 100 + 1e-9


def summary(**more: Any) -> dict[str, Any]:
    return {"gain": 0.5, "half": 0.04, "foreign_gain": None, **{key: [group(0.5)] for key in TITLES}} | more


def test_what_remains_with_another_documents_memory() -> None:
    assert evidence(summary()).remains is None  # not scored
    assert evidence(summary(foreign_gain=0.1)).remains == pytest.approx(0.2)
    assert evidence(summary(foreign_gain=-0.25)).remains == pytest.approx(-0.5)
    assert evidence(summary(gain=-0.5, foreign_gain=0.25)).remains is None  # no gain of which a part could remain
    assert evidence(summary(gain=0.0, foreign_gain=0.0)).longest > 0


def test_older_summaries_lack_some_groups() -> None:
    shown = evidence({key: value for key, value in summary().items() if key != "by_distance"})
    assert [table.title for table in shown.first] == [TITLES["by_kind"][0]]

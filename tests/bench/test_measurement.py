"""How figures are taken and judged."""

import pytest

from memexp.bench.formats import amount, to_markdown
from memexp.bench.measurement import Figure, in_turn, timed

MACHINE = {
    "cpu": "x",
    "instructions": "y",
    "cores": 2,
    "load": 0.5,
    "threads": 1,
    "clock": "CPU",
    "torch": "2",
    "python": "3",
    "floors": {"memory read, GB/s": 12.34},
}


def test_every_round_measures_each_side_once_and_every_other_one_backwards() -> None:
    order = []

    def side(name: str, value: float):
        return lambda: order.append(name) or value

    said: list[str] = []
    found = in_turn({"a": side("a", 1.0), "b": side("b", 2.0)}, repeats=3, say=said.append)
    assert "".join(order) == "abbaab"
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert said == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]


def test_a_timed_side_has_run_once_before() -> None:
    runs = []
    side = timed(lambda: runs.append(1))
    assert len(runs) == 1
    assert 0 <= side() < 1
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        ({}, None),
        ({"ratio_at_most": 2.0}, True),
        ({"ratio_at_most": 1.9}, False),
        ({"ours_at_most": 3.0}, True),
        ({"ours_at_most": 2.9}, False),
        ({"ratio_at_most": 1.9, "ours_at_most": 3.0}, False),
    ],
)
def test_the_ratio_is_the_median_over_rounds_not_of_medians(limits, met) -> None:
    figure = Figure("what", "ours", "other", "s", [3.0, 9.0, 2.0], [2.0, 1.0, 1.0], **limits)
    assert figure.as_dict()["ratio"] == {"median": 2.0, "min": 1.5, "max": 9.0}
    assert figure.as_dict()["ours_summary"]["median"] == 3.0
    assert figure.met is met


def test_amounts() -> None:
    assert [amount(*each) for each in ((1.234, "s"), (0.01234, "s"), (3 << 20, "bytes"))] == [
        "1.23 s",
        "12.3 ms",
        "3 MiB",
    ]


def test_markdown_says_what_was_wanted_and_missed() -> None:
    figure = Figure("a|b", "ours", "other", "s", [3.0], [2.0], ratio_at_most=1.05, note="a note")
    text = to_markdown([figure], {"date": "2001-02-03T", "machine": MACHINE, "settings": {"repeats": 1}}, work="w")
    row = next(line for line in text.splitlines() if "ours: 3 s" in line)
    assert row.startswith(r"| a\|b |")
    assert row.endswith("| no |")
    assert "1.5" in row
    assert "1.05" in row
    assert "a note" in text
    assert "2001-02-03," in text

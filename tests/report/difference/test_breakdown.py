"""Groups of tokens against plain loops, kinds on text whose kinds anybody can tell, and the memory of another document."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from memexp.config.groups import Scored
from memexp.report.difference.breakdown import break_down, half, notes, since_last
from memexp.report.difference.token_kinds import KINDS, kinds
from memexp.report.difference.token_text import word
from memexp.report.difference.tokens import Difference, difference
from memexp.store.scores import find_foreign, find_score, load_scores

TOKENS = [[7, 8, 7, 7, 9, 8], [7, 9, 7]]


def paired(fakes: Any, a: list[list[float]], b: list[list[float]], tokens: list[list[int]]) -> Difference:
    fakes.score(fakes.run("a", arch="xl", mem=64), a, tokens=tokens)
    fakes.score(fakes.run("b", mem=512), b, tokens=tokens)
    return difference(*(load_scores(*find_score(fakes.root, name, Scored())) for name in "ab"))


def test_groups_are_those_of_plain_loops(fakes: Any) -> None:
    random = np.random.default_rng(0)
    tokens = [random.zipf(1.3, length).clip(1, 500).tolist() for length in (900, 400)]
    losses = [[random.exponential(2, len(one)).tolist() for one in tokens] for _ in range(2)]
    found = paired(fakes, *losses, tokens)
    kind_N = random.integers(3, size=1300)
    told = break_down(found, kind_N, None)
    gains, flat = found.gain_N.tolist(), [token for one in tokens for token in one]
    times = Counter(flat)
    ago = [next((d for d in range(1, at + 1) if one[at - d] == one[at]), 0) for one in tokens for at in range(len(one))]

    def expect(groups: list[Any], labels: list[str], belongs: Any) -> None:
        assert {group.label for group in groups} == {label for label in labels if any(map(belongs(label), range(1300)))}
        for group in groups:
            mine = [gains[at] for at in range(1300) if belongs(group.label)(at)]
            assert (group.tokens, group.gain) == (len(mine), pytest.approx(sum(mine) / len(mine)))
            assert group.share == pytest.approx(sum(mine) / sum(gains))

    def between(values: list[int]) -> Any:
        def belongs(label: str) -> Any:
            low, *high = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+", label))
            last = float("inf") if "more" in label else high[0] if high else low
            return lambda at: low <= values[at] <= last

        return belongs

    expect(told.kinds, list(KINDS), lambda label: lambda at: KINDS[kind_N[at]] == label)
    expect(
        told.frequency,
        ["1", "2 to 9", "10 to 99", "100 to 999", "1,000 and more"],
        between([times[one] for one in flat]),
    )
    seen = [group for group in told.distance if group.label != "never before"]
    expect(seen, ["1 to 63", "64 to 255", "256 to 1,023", "1,024 to 4,095"], between(ago))
    assert told.distance[0].tokens == ago.count(0)
    assert sum(group.share for group in told.distance) == pytest.approx(1)


def test_since_last_stays_in_its_document(fakes: Any) -> None:
    losses = [[1.0] * len(one) for one in TOKENS]
    assert since_last(paired(fakes, losses, losses, TOKENS)).tolist() == [0, 0, 2, 1, 0, 4, 0, 0, 2]


@pytest.mark.parametrize(
    ("gains", "expected"),
    [([4, 2, 1, 1, -5], 0.2), ([1, 1, 1, 1, -9], 0.4), ([3, 3, 1, 1, 1], 0.4), ([-1, 0, 0, 0, 0], 0)],
)
def test_half_of_the_gain_is_made_by_the_fewest(fakes: Any, gains: list[float], expected: float) -> None:
    assert half(paired(fakes, [[9.0] * 5], [[9.0 - gain for gain in gains]], [[1, 2, 3, 4, 5]])) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see \\cite{smith} and Eq. \\ref{eq:1}", {"\\cite{smith}": "citation", "\\ref{eq:1}": "citation", "see": "word"}),
        ("as shown in [3, 14] by (Smith et al., 1999).", {"[3, 14]": "citation", "(Smith et al., 1999)": "citation"}),
        ("y = [0] + items[1]", {"[": "punctuation", "0": "number", "items": "word", "1": "number"}),
        ("0x1F + 3.5e-3, 1_000", {"0x1F": "number", "3.5e-3": "number", "1_000": "number", "+": "punctuation"}),
        ("self.name_of(theValue) == call(x)", {"name_of": "identifier", "theValue": "identifier", "call": "identifier"}),
        ("Then Mr Brown left. Then he met Ana.", {"Mr": "name", "Brown": "name", "Ana": "name", "Then": "word"}),
        ("\\alpha_1 é中", {"\\alpha": "identifier", "é中": "word"}),
    ],
)  # fmt: skip
def test_kinds_by_form(text: str, expected: dict[str, str]) -> None:
    kind_N = kinds(list(text))
    for part, kind in expected.items():
        start = text.index(part)
        found = {KINDS[at] for at, char in zip(kind_N[start : start + len(part)], part, strict=True) if char != " "}
        assert found == {kind}, part


def test_a_token_has_the_kind_of_its_first_visible_character() -> None:
    assert [KINDS[at] for at in kinds([" (x", "x", "", "\u4e2d", " ", "\n\n1"])] == [
        "punctuation", "word", "word", "word", "space", "number",
    ]  # fmt: skip


def test_texts_are_those_of_the_document_and_numbers_have_no_kind(fakes: Any) -> None:
    from memexp.report.difference.token_text import numbers

    pieces = {1: b"a\xc3", 2: b"\xa9\t", 3: b"\n\x1b", 4: b"\xe4\xb8"}
    found = paired(fakes, [[1.0] * 4], [[1.0] * 4], [[1, 2, 3, 4]])
    assert word(found, lambda ids: [pieces[one] for one in ids]).texts == ["a", "é\t", "\n\\x1b", "\\xe4\\xb8"]
    assert {KINDS[at] for at in word(found, numbers).kind_N} == {"unknown"}


def test_the_memory_of_another_document_is_found_beside(fakes: Any) -> None:
    run = fakes.run("knn", mem=512)
    fakes.score(fakes.run("a", arch="xl", mem=64), 3.0)
    fakes.score(run, 2.0)
    a, b = (load_scores(*find_score(fakes.root, name, Scored())) for name in ("a", "knn"))
    kind_N = np.zeros(4, dtype=int)
    found = difference(a, b)
    remarks = notes(found, break_down(found, kind_N, find_foreign(b)))
    assert [one.command.split()[-1] for one in remarks] == ["memory=foreign", "retrieved=4"]
    other = fakes.score(fakes.run("rmt", arch="rmt", mem=8), 2.0, memory_slots=8)
    without_pairs = difference(a, load_scores("rmt", other))
    assert [one.command.split()[-1] for one in notes(without_pairs, break_down(without_pairs, kind_N, None))] == [
        "memory=foreign"
    ]
    fakes.score(run, 2.75, memory="foreign")
    told = break_down(found, kind_N, find_foreign(b))
    assert told.foreign == 0.25
    assert "+0.2500 nats" in notes(found, told)[0].text
    foreign = load_scores(*find_score(fakes.root, "knn@512-foreign", Scored()))
    assert find_foreign(foreign) is None
    assert find_foreign(a) is None
    assert notes(difference(b, a), told) == []  # a cache is no memory

"""Near-duplicates against sets of runs of words."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from memexp.data.duplicates import SHARE, WORDS, near_duplicates


def runs(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + WORDS]) for place in range(len(words) - WORDS + 1)}


def prose(seed: int, words: int) -> str:
    random = Random(seed)
    return " ".join(f"w{random.randrange(200)}" for _ in range(words))


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(10, 60)), max_size=4), min_size=1, max_size=6))
def test_they_are_those_that_sets_say(pieces: list[list[tuple[int, int]]]) -> None:
    """Texts are made of beginnings of a few others, so that they share much."""
    texts = {f"d{n}": " ".join(prose(seed, words) for seed, words in parts) for n, parts in enumerate(pieces)}
    expected = {}
    order = sorted(texts, key=lambda id: (-len(texts[id]), id))
    for place, id in enumerate(order):
        own = runs(texts[id])
        shares = [len(own & runs(texts[longer])) / len(own) for longer in order[:place]] if own else []
        if max(shares, default=0) > SHARE:
            expected[id] = max(shares)
    found = near_duplicates(texts)
    assert {id: overlap.share for id, overlap in found.items()} == expected
    for id, overlap in found.items():
        assert len(runs(texts[id]) & runs(texts[overlap.other])) / len(runs(texts[id])) == overlap.share


def test_other_white_space_is_the_same_text_and_short_texts_are_none() -> None:
    text = prose(0, 50)
    assert near_duplicates({"a": text, "b": f"{text.replace(' ', chr(10))} end"})["a"].other == "b"
    assert near_duplicates({"a": "one two", "b": "one two", "c": ""}) == {}
    assert near_duplicates({}) == {}


def test_what_is_shared_with_several_is_not_added_up() -> None:
    own, first, second = prose(0, 100), prose(1, 300), prose(2, 300)
    words = own.split()
    parts = {"own": own, "first": f"{first} {' '.join(words[:35])}", "second": f"{second} {' '.join(words[-35:])}"}
    assert near_duplicates(parts) == {}
    assert near_duplicates(parts | {"both": " ".join([first, second, *words])})["own"] == ("both", 1.0)

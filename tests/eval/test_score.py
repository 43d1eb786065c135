"""Every token but a document's first is scored once, and its score depends on nothing but its document."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memexp.data.corpus import TokenDocument
from memexp.errors import UserError
from memexp.eval.score import Scores, score_documents
from memexp.model.segment import SegmentModel
from memexp.model.state import State, fork

from ..contract.conftest import ARCHS
from ..messages import says
from .conftest import SEGMENT, WINDOWED, build, documents

AWKWARD = (70, 1, 33, 16, 17, 2, 0, 120, 9)
"""Multiples of the segment and one more or less, and two with nothing to score."""


def score(
    model: SegmentModel, texts: list[TokenDocument], *, lanes: int = 3, memory: str = "on", limit: int = 0
) -> Scores:
    return score_documents(model, texts, lanes=lanes, max_document=limit, memory=memory)


def pieces(document: TokenDocument, *, length: int = SEGMENT) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of one document, one lane, without padding, `length` tokens at a time."""
    tokens = torch.from_numpy(document.tokens.astype(np.int64))
    starts = [*list(range(0, max(0, len(tokens) - 1), length)), max(0, len(tokens) - 1)]
    return [(tokens[None, start:end], tokens[None, start + 1 : end + 1]) for start, end in pairwise(starts)]


def nats(model: SegmentModel, hidden: Tensor, targets: Tensor) -> list[float]:
    found = -model.head.logits(hidden).log_softmax(-1)[0, torch.arange(targets.shape[1]), targets[0]]
    return list(map(float, found))


def loop(model: SegmentModel, document: TokenDocument) -> list[float]:
    """The plain computation: one document, one segment after another."""
    state, found = model.init_state(1), []
    for tokens, targets in pieces(document):
        output = model.step(tokens, torch.ones_like(tokens, dtype=torch.bool), state)
        state = output.state
        found += nats(model, output.hidden_BTD, targets)
    return found


class Echo(torch.nn.Module):
    """A head whose nats are the target's number."""

    def __init__(self, model: SegmentModel) -> None:
        super().__init__()
        self.embed = model.head.embed
        self.embedding_VD = model.head.embedding_VD

    def nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        return targets_BT.float() + 1


QUICK = ("block_knn", "delta", "knn", "rmt_xl")
"""An architecture for each kind of state: vectors and pairs, matrices, pairs alone, memory tokens beside a cache."""


@pytest.mark.parametrize("limit", [0, 16, 17])
@pytest.mark.parametrize("lanes", [1, 4, 20])
def test_each_token_is_scored_once_and_in_order(limit: int, lanes: int) -> None:
    model = build("arch=xl")
    model.head = Echo(model)  # type: ignore[assignment]
    texts, counted = documents(*AWKWARD), []
    scores = score_documents(model, texts, lanes=lanes, max_document=limit, progress=counted.append)
    expected = [document.tokens[1 : limit + 1 if limit else None] for document in texts]
    assert scores.nats.dtype == np.float32
    assert (scores.nats == np.concatenate(expected).astype(np.float32) + 1).all()
    assert scores.lengths == [len(each) for each in expected]
    assert sum(counted) == sum(scores.lengths)


@torch.no_grad()
def test_vanilla_in_one_segment_is_the_whole_context_at_once() -> None:
    model, texts = build("arch=vanilla", "segment=64"), documents(33, 2, 65, 20)
    found = score_documents(model, texts, lanes=2, max_document=0).nats
    expected: list[float] = []
    for document in texts:
        tokens = torch.from_numpy(document.tokens.astype(np.int64))[None]
        for length in range(1, tokens.shape[1]):  # each target from the tokens before it alone, no causal mask needed
            hidden = model(
                tokens[:, :length], torch.ones(1, length, dtype=torch.bool), model.init_state(1), torch.tensor([True])
            ).hidden_BTD
            expected += nats(model, hidden[:, -1:], tokens[:, length : length + 1])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [("arch=vanilla",), ("arch=xl",), ("arch=knn",), ("arch=knn", "arch.write=leaving")]
)
@torch.no_grad()
def test_scores_are_those_of_a_plain_loop(settings: tuple[str, ...]) -> None:
    model, texts = build(*settings), documents(*AWKWARD)
    expected = [each for document in texts for each in loop(model, document)]
    np.testing.assert_allclose(score(model, texts).nats, expected, atol=1e-4)


@pytest.mark.parametrize(
    "memory", ["on", pytest.param("off", marks=pytest.mark.hard), pytest.param("foreign", marks=pytest.mark.hard)]
)
@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[] if arch in QUICK else pytest.mark.hard) for arch in ARCHS]
)
def test_scores_do_not_depend_on_lanes(arch: str, memory: str) -> None:
    model, texts = build(f"arch={arch}"), documents(*AWKWARD)
    one = score(model, texts, lanes=1, memory=memory)
    for lanes in (3, 100):
        other = score(model, texts, lanes=lanes, memory=memory)
        np.testing.assert_allclose(other.nats, one.nats, rtol=1e-4, atol=1e-4)
        assert other.memory_fill == one.memory_fill


GAUGED: list[tuple[str, list[str]]] = [
    *((arch, []) for arch in ARCHS),
    *((arch, ["arch.window=4", "arch.recurrent_layers=[1,2]"]) for arch in WINDOWED),
    ("thought", ["arch.faithful=true", "arch.recall_target=embeddings"]),
]


@pytest.mark.hard
@pytest.mark.parametrize(("arch", "options"), GAUGED, ids=str)
def test_gauges_do_not_depend_on_lanes(arch: str, options: list[str]) -> None:
    """Documents of five lengths, so that lanes run out, and what a lane's numbers are relative to differs among them."""
    # in the first layer a token that comes again has the same key, and which of the two is found is no matter but to age
    second = ["arch.knn_layers=[2]"] if "knn" in arch else []
    model, texts = build(f"arch={arch}", *options, *second), documents(70, 33, 18, 101, 10)
    one, three = (score(model, texts, lanes=lanes).gauges for lanes in (1, 3))
    assert set(one) == set(three)
    assert not any(name.startswith("memory_fill") for name in one)
    assert {name: three[name] for name in one} == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("memory", ["on", "foreign"])
@pytest.mark.parametrize("arch", ["knn", *WINDOWED])
def test_nothing_is_computed_for_lanes_that_ran_out(arch: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = build(f"arch={arch}"), documents(*AWKWARD)
    step, read = model.step, []

    def counted(tokens_BT: Tensor, *rest: Any) -> Any:
        read.append(len(tokens_BT))
        return step(tokens_BT, *rest)

    monkeypatch.setattr(model, "step", counted)
    score(model, texts, lanes=4, memory=memory)
    once = sum(math.ceil((length - 1) / SEGMENT) for length in AWKWARD if length)
    # a lender's last stride, here in a lane of its own, is lent to nobody
    assert sum(read) == (once if memory == "on" else 2 * once - 1)
    assert max(read) == 4


def test_a_document_alone_scores_as_in_company() -> None:
    model, texts = build("arch=knn"), documents(*AWKWARD)
    together = np.split(score(model, texts).nats, np.cumsum(score(model, texts).lengths))
    alone = score(model, [texts[2]]).nats
    np.testing.assert_allclose(alone, together[2], atol=1e-5)


def test_padding_of_lanes_that_ran_out_fills_no_memory() -> None:
    # two lanes: the third document leaves the second lane without work for as long as it lasts
    scores = score(build("arch=knn", "mem=160"), documents(81, 81, 81), lanes=2)
    assert scores.memory_fill == pytest.approx(72 / 160)  # before the last of ten segments of 8


def test_dropout_is_off() -> None:
    model, texts = build("arch=vanilla", "arch.dropout=0.5").train(), documents(33)
    assert (score(model, texts).nats == score(model, texts).nats).all()


@pytest.mark.parametrize("combine", ["gate", "joint"])
@pytest.mark.parametrize("write", ["all", "leaving"])
def test_memory_off_is_the_model_without_memory(combine: str, write: str) -> None:
    options, texts = (f"arch.combine={combine}", f"arch.write={write}"), documents(*AWKWARD)
    model, without = build("arch=knn", *options), build("arch=knn", "mem=0", *options)
    without.load_state_dict(model.state_dict())
    off = score(model, texts, memory="off")
    np.testing.assert_allclose(off.nats, score(without, texts).nats, atol=1e-5)
    assert np.abs(off.nats - score(model, texts).nats).max() > 1e-2
    assert off.memory_fill == 0.0


@pytest.mark.parametrize("write", ["all", "leaving"])
@torch.no_grad()
def test_foreign_memory_is_that_of_the_next_document(write: str) -> None:
    """By hand, two lanes of one each: the lender reads its own document; the reader has its own cache and that memory."""
    model, texts = build("arch=knn", f"arch.write={write}"), documents(70, 33, 100)
    expected: list[float] = []
    for document, other in zip(texts, [*texts[1:], texts[0]], strict=True):
        repeated = other._replace(tokens=np.tile(other.tokens, 4)[: len(document.tokens)])
        own, lender = model.init_state(1), model.init_state(1)
        for (tokens, targets), (theirs, _) in zip(pieces(document), pieces(repeated), strict=True):
            valid = torch.ones_like(tokens, dtype=torch.bool)
            output = model.step(tokens, valid, State(own.cache, fork(lender.memory)))
            lender = model.step(theirs, valid, lender).state
            own = output.state
            expected += nats(model, output.hidden_BTD, targets)
    found = score(model, texts, memory="foreign")
    np.testing.assert_allclose(found.nats, expected, atol=1e-4)
    on = score(model, texts)
    first = np.concatenate([[0], np.cumsum(on.lengths)[:-1]])
    for start in first:  # with nothing remembered yet there is nothing foreign
        np.testing.assert_allclose(found.nats[start : start + SEGMENT], on.nats[start : start + SEGMENT], atol=1e-5)
    assert np.abs(found.nats - on.nats).max() > 1e-2
    assert found.memory_fill == on.memory_fill  # as full as one's own


WITHIN_SEGMENTS = [
    ("arch=block", "mem=3", "arch.recurrent_layers=[1,2]", "arch.gate_kind=lstm", "arch.window=4"),
    ("arch=block_knn", "mem=3", "arch.window=2"),
    ("arch=block_knn", "mem=0", "arch.write=leaving", "arch.window=4"),
]


@pytest.mark.hard
@pytest.mark.parametrize("settings", WITHIN_SEGMENTS, ids=str)
@pytest.mark.parametrize("memory", ["off", "foreign"])
@torch.no_grad()
def test_memory_is_off_or_foreign_at_every_window(memory: str, settings: tuple[str, ...]) -> None:
    """By hand as above, a window at a time, in segments of 8."""
    model, texts = build(*settings), documents(70, 33, 100)
    expected: list[float] = []
    for document, other in zip(texts, [*texts[1:], texts[0]], strict=True):
        repeated = other._replace(tokens=np.tile(other.tokens, 4)[: len(document.tokens)])
        own, lender = model.init_state(1), model.init_state(1)
        windows = [pieces(each, length=model.stride) for each in (document, repeated)]
        for (tokens, targets), (theirs, _) in zip(*windows, strict=True):
            valid = torch.ones_like(tokens, dtype=torch.bool)
            start = model.init_state(1) if memory == "off" else fork(lender)
            output = model.step(tokens, valid, State(own.cache, start.memory))
            lender = model.step(theirs, valid, lender).state
            own = output.state
            expected += nats(model, output.hidden_BTD, targets)
    found = score(model, texts, memory=memory)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-4, atol=1e-4)
    on = [each for document in texts for each in loop(model, document)]  # whole segments, which make no difference
    np.testing.assert_allclose(score(model, texts).nats, on, rtol=1e-4, atol=1e-4)
    assert np.abs(found.nats - on).max() > 1e-2


def test_foreign_memory_holds_nothing_of_the_document_itself() -> None:
    model, texts = build("arch=knn", "arch.cache=0"), documents(40, 40)
    changed = texts[0]._replace(tokens=np.where(np.arange(40) < 16, 7, texts[0].tokens))

    def last(first: TokenDocument, memory: str) -> np.ndarray:
        return score(model, [first, texts[1]], memory=memory).nats[24:39]

    assert np.abs(last(changed, "on") - last(texts[0], "on")).max() > 1e-3
    np.testing.assert_allclose(last(changed, "foreign"), last(texts[0], "foreign"), atol=1e-6)


def test_foreign_memory_needs_another_document() -> None:
    with pytest.raises(UserError, check=says("there is 1 document to score", "expected two")):
        score(build("arch=knn"), documents(40), memory="foreign")


# ------------------------------------------------------------------------------------------- retrieved


@torch.no_grad()
@pytest.mark.parametrize("arch", ["arch=knn", "arch=block_knn"])
def test_what_was_retrieved_is_kept_by_the_scored_token(arch: str) -> None:
    """Against one document at a time and a dictionary of weights by place."""
    model, texts = build(arch), documents(*AWKWARD)
    found = score_documents(model, texts, lanes=3, max_document=0, retrieved=3).retrieved
    assert found is not None
    rows = iter(found)
    for text in texts:
        state = model.init_state(1)
        for tokens, _ in pieces(text):
            valid, reset = torch.ones_like(tokens, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
            seen = model.inspect(tokens, valid, fork(state), reset)
            for place in range(tokens.shape[1]):
                weight: dict[int, float] = {}
                ages, weights = seen.ages_BTLHk[0, place].flatten(), seen.weights_BTLHk[0, place].flatten()
                for age, share in zip(ages.tolist(), weights.tolist(), strict=True):
                    weight[age] = weight.get(age, 0) + share / seen.ages_BTLHk.shape[2] / seen.ages_BTLHk.shape[3]
                row, largest = next(rows), sorted([*weight.values(), 0, 0, 0], reverse=True)[:3]
                assert row["weight"].tolist() == pytest.approx(largest, rel=1e-3, abs=1e-6)
                for distance, share in row.tolist():  # places of equal weight may come in any order
                    assert weight.get(distance, 0) == pytest.approx(share, rel=1e-3, abs=1e-6)
            state = model.step(tokens, valid, state).state
    assert next(rows, None) is None
    assert (found["weight"] > 0).mean() > 0.5


@pytest.mark.parametrize(
    ("arch", "memory", "said"),
    [("arch=xl", "on", "this model retrieves nothing"), ("arch=knn", "off", "but memory is off; expected whole")],
)
def test_there_must_be_places_to_keep(arch: str, memory: str, said: str) -> None:
    with pytest.raises(UserError, check=says("retrieved is 1", said, "expected")):
        score_documents(build(arch), documents(20, 20), lanes=1, max_document=0, memory=memory, retrieved=1)

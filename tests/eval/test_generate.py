"""Continuing a prompt: the nats are those of scoring, tokens are drawn as asked, and nothing is read more than needed."""

from typing import Any

import numpy as np
import pytest
import torch

from memexp.data.corpus import TokenDocument
from memexp.errors import UserError
from memexp.eval.generate import Sampling, draw, generate
from memexp.eval.score import score_documents
from memexp.model.segment import SegmentModel
from memexp.model.transformer.numerics import Arithmetic

from ..contract.conftest import ARCHS
from ..messages import says
from .conftest import SEGMENT, VOCABULARY, WINDOWED, build, documents

LANES = 3


def prompt(length: int) -> np.ndarray:
    return documents(length)[0].tokens


def continued(
    model: SegmentModel,
    text: np.ndarray,
    *,
    tokens: int,
    lanes: int = LANES,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    memory: str = "on",
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and their nats, B N each."""
    drawn = list(generate(model, text, tokens=tokens, lanes=lanes, sampling=sampling, seed=seed, memory=memory))
    return np.stack([each.tokens_B for each in drawn], 1), np.stack([each.nats_B for each in drawn], 1)


def scored(model: SegmentModel, text: np.ndarray, tokens_BN: np.ndarray, *, memory: str = "on") -> np.ndarray:
    """Nats of the continuations when they are read as documents, B N."""
    whole = [TokenDocument(str(lane), np.concatenate([text, tokens_N]), 0) for lane, tokens_N in enumerate(tokens_BN)]
    scores = score_documents(model, whole, lanes=2, max_document=0, memory=memory)
    return scores.nats.reshape(len(whole), -1)[:, len(text) - 1 :]


# ------------------------------------------------------------------------------------------------ reading


QUICK = ("block_knn", "delta", "knn", "rmt_xl")
"""An architecture for each kind of state: vectors and pairs, matrices, pairs alone, memory tokens beside a cache."""
CASES: list[Any] = [
    pytest.param(arch, [], 2 * SEGMENT + 5, marks=[] if arch in QUICK else pytest.mark.hard) for arch in ARCHS
]
CASES += [pytest.param(arch, [], length, marks=pytest.mark.hard) for arch in ARCHS for length in (1, SEGMENT)]
"""Variants go through `extend` in the contract, whatever it is used for."""


@pytest.mark.parametrize(("arch", "options", "length"), CASES, ids=str)
def test_nats_are_those_of_scoring_the_same_text(arch: str, options: list[str], length: int) -> None:
    """Over many borders, and past what any memory holds."""
    model = build(f"arch={arch}", *options)
    tokens_BN, nats_BN = continued(model, prompt(length), tokens=48)
    assert tokens_BN.shape == nats_BN.shape == (LANES, 48)
    assert len({tuple(lane) for lane in tokens_BN}) == LANES
    np.testing.assert_allclose(nats_BN, scored(model, prompt(length), tokens_BN), rtol=1e-4, atol=1e-4)


@pytest.mark.hard
@pytest.mark.parametrize(
    ("arch", "options"), [*((arch, ()) for arch in ARCHS), *((arch, ("arch.window=2",)) for arch in WINDOWED)]
)
def test_without_memory_they_are_those_of_scoring_without_it(arch: str, options: tuple[str, ...]) -> None:
    model = build(f"arch={arch}", *options)
    tokens_BN, nats_BN = continued(model, prompt(21), tokens=40, memory="off")
    np.testing.assert_allclose(nats_BN, scored(model, prompt(21), tokens_BN, memory="off"), rtol=1e-4, atol=1e-4)
    with_memory = scored(model, prompt(21), tokens_BN)
    assert (np.abs(nats_BN - with_memory).max() > 1e-2) == bool(model.memory_slots)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_state_moves_on_once_a_stride(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole strides of the prompt through `step` alone; of those that are drawn, each token through `extend` once."""
    model = build(f"arch={arch}")
    steps: list[list[int]] = []
    pieces: list[int] = []
    step, extend = model.step, model.extend

    def stepped(tokens_BT: torch.Tensor, *rest: Any) -> Any:
        steps.append(tokens_BT[0].tolist())
        return step(tokens_BT, *rest)

    def extended(tokens_BT: torch.Tensor, *rest: Any) -> Any:
        pieces.append(tokens_BT.shape[1])
        return extend(tokens_BT, *rest)

    monkeypatch.setattr(model, "step", stepped)
    monkeypatch.setattr(model, "extend", extended)
    stride = model.stride
    text = prompt(2 * stride + 3)
    tokens_BN, _ = continued(model, text, tokens=2 * stride, lanes=1)
    read = [*text.tolist(), *tokens_BN[0].tolist()][: (len(text) + 2 * stride - 1) // stride * stride]
    assert steps == [read[start : start + stride] for start in range(0, len(read), stride)]
    assert pieces == [3] + [1] * (2 * stride - 1)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UserError, check=says("no token", "expected one")):
        continued(build(), prompt(1)[:0], tokens=1)


# ------------------------------------------------------------------------------------------------ drawing


def test_temperature_0_is_the_likeliest_token_by_a_plain_pass() -> None:
    model = build()
    tokens_BN, _ = continued(model, prompt(3), tokens=5, lanes=1, sampling=Sampling(temperature=0))
    text = prompt(3).astype(np.int64)
    for token in tokens_BN[0]:
        read_1T = torch.from_numpy(text)[None]
        hidden_1TD = model.step(read_1T, torch.ones_like(read_1T, dtype=torch.bool), model.init_state(1)).hidden_BTD
        assert token == model.head.logits(hidden_1TD)[0, -1].argmax()
        text = np.append(text, token)


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(top_p=0.0), Sampling(temperature=1e-300)])
def test_with_one_token_left_seeds_change_nothing(sampling: Sampling) -> None:
    model = build("arch=knn")
    greedy, _ = continued(model, prompt(5), tokens=20, sampling=Sampling(temperature=0))
    found, _ = continued(model, prompt(5), tokens=20, sampling=sampling, seed=7)
    assert (found == greedy).all()


def test_a_seed_is_a_text_and_nothing_else_is_drawn_from() -> None:
    model = build("arch=xl")
    before = torch.random.get_rng_state()
    first, second, other = (continued(model, prompt(5), tokens=20, seed=seed)[0] for seed in (3, 3, 4))
    assert (first == second).all()
    assert (first != other).any()
    assert torch.equal(torch.random.get_rng_state(), before)


SHARES = np.array([0.1, 0.4, 0.2, 0.25, 0.05])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), SHARES),
        (Sampling(temperature=0.5), SHARES**2 / (SHARES**2).sum()),
        (Sampling(top_k=2), np.array([0, 0.4, 0, 0.25, 0]) / 0.65),
        (Sampling(top_p=0.64), np.array([0, 0.4, 0, 0.25, 0]) / 0.65),
        (Sampling(top_p=0.66), np.array([0, 0.4, 0.2, 0.25, 0]) / 0.85),
        (Sampling(top_p=0.39), np.array([0, 1.0, 0, 0, 0])),
        (Sampling(top_k=3, top_p=0.75), np.array([0, 0.4, 0, 0.25, 0]) / 0.65),  # 0.65 of 0.85 are more than 0.75
        (Sampling(top_k=9, top_p=1.0), SHARES),
    ],
    ids=str,
)
def test_shares_are_the_softmax_of_the_head_of_the_distribution(sampling: Sampling, expected: np.ndarray) -> None:
    logits_BV = torch.from_numpy(np.log(SHARES) + 3).float().repeat(20_000, 1)
    drawn_B = draw(logits_BV, sampling, torch.Generator().manual_seed(0))
    found = np.bincount(drawn_B.numpy(), minlength=5) / len(drawn_B)
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=0.015)  # four standard deviations of the mean of 20,000


def test_half_precision_stays_near_full() -> None:
    model = build("arch=xl")
    full, rounded = (
        next(
            generate(
                model,
                prompt(20),
                tokens=1,
                lanes=1,
                sampling=Sampling(temperature=0),
                seed=0,
                arithmetic=Arithmetic(bf16),
            )
        )
        for bf16 in (False, True)
    )
    assert 0 < abs(full.nats_B - rounded.nats_B) < 0.1 * full.nats_B + 0.1
    assert int(full.tokens_B) < VOCABULARY

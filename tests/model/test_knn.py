"""Memorizing Transformer against exact attention over everything, and against its paper's formula."""

import math

import pytest
import torch

from memexp.model.knn import Knn
from memexp.model.knn_memory.layer import gated
from memexp.model.knn_memory.retrieved import Retrieved
from memexp.model.vanilla import Vanilla

from .make import make
from .small import COMMON, LANES, LENGTH, randomise, read, shape, tokens


@pytest.mark.parametrize(("write", "cache"), [("all", 0), ("leaving", 0), ("leaving", 8), ("leaving", 12)])
def test_knn_that_retrieves_everything_is_exact_softmax_attention(write: str, cache: int) -> None:
    """One layer, no positions, joint softmax: memory and local keys together are all keys of the document.

    Writing all pairs is compared without a cache only, for by design what is in the cache is then attended to twice.
    """
    options = {**COMMON, "position": "none"}
    knn = make(Knn, 
        shape(segment=8, layers=1), mem=LENGTH, cache=cache, knn_layers=[1], neighbours=LENGTH, search="exact", stored="fp32", stored_on="device",
        combine="joint", gate=0.0, write=write, knn_position=True, **options,
    )  # fmt: skip
    knn = randomise(knn)
    vanilla = make(Vanilla, shape(segment=LENGTH, layers=1), mem=0, **options).double()
    vanilla.load_state_dict(knn.state_dict())
    text = tokens()
    torch.testing.assert_close(read(knn, text, segment=8), read(vanilla, text, segment=LENGTH))


def test_gated_reading_is_the_paper_s_formula() -> None:
    """V = g softmax(scores) V_m + (1 - g) V_c for each head, and V_c alone where nothing was found."""
    torch.manual_seed(7)
    scores, values = torch.randn(2, 2, 3, 5), torch.randn(2, 2, 3, 5, 4)
    found = torch.ones(2, 2, 3, 5, dtype=torch.bool)
    found[0, :, :, 3:] = False
    found[1, :, 2] = False
    local, gate = torch.randn(2, 2, 3, 4), torch.tensor([0.7, -1.2])
    slots = torch.arange(3 * 5).view(3, 5).expand_as(scores)
    retrieved = Retrieved(slots, found, scores.masked_fill(~found, -math.inf), values.flatten(2, 3), slots)
    read_BHTK = gated(retrieved, local, gate).read_BHTK
    for lane in range(2):
        for head in range(2):
            for t in range(3):
                count = int(found[lane, head, t].sum())
                expected = local[lane, head, t]
                if count:
                    weights = scores[lane, head, t, :count].exp() / scores[lane, head, t, :count].exp().sum()
                    share = 1 / (1 + math.exp(-gate[head]))
                    memory = sum(w * v for w, v in zip(weights, values[lane, head, t, :count], strict=True))
                    expected = share * memory + (1 - share) * expected
                torch.testing.assert_close(read_BHTK[lane, head, t], expected)


def test_gradient_reaches_queries_and_never_the_ring() -> None:
    options = {**COMMON, "position": "none"}
    knn = make(Knn, 
        shape(segment=8, layers=1), mem=40, cache=0, knn_layers=[1], neighbours=4, search="exact", stored="fp32", stored_on="device",
        combine="gate", gate=0.0, write="all", knn_position=True, **options,
    )  # fmt: skip
    text = tokens()
    state = knn.init_state(LANES)
    for part in text.split(8, dim=1):
        output = knn(part, torch.ones_like(part, dtype=torch.bool), state, torch.zeros(LANES, dtype=torch.bool))
        state = output.state
    output.hidden_BTD.sum().backward()
    assert knn.layers[0].attention.queries_values.weight.grad[:16].abs().sum() > 0
    assert state.memory[0].keys_BHRK.grad_fn is None
    assert not state.memory[0].keys_BHRK.requires_grad


def test_inspect_says_how_far_back_a_token_was_read() -> None:
    """A text that repeats itself: with the smear, what a token reads most is its last occurrence's neighbourhood."""
    for write, cache in (("all", 0), ("all", 8), ("leaving", 8)):
        knn = make(Knn, 
            shape(segment=8, layers=1), mem=40, cache=cache, knn_layers=[1], neighbours=1, search="exact", stored="fp32", stored_on="device",
            combine="gate", gate=0.0, write=write, knn_position=True, position="none",
            **{**COMMON, "keys_as_queries": True},
        )  # fmt: skip
        text = torch.arange(24).expand(LANES, -1).clone()
        text[:, 21] = 2  # seen 19 tokens before
        state = knn.init_state(LANES)
        for index, part in enumerate(text.split(8, dim=1)):
            valid, reset = torch.ones_like(part, dtype=torch.bool), torch.full((LANES,), index == 0)
            if index == 2:
                found = knn.inspect(part, valid, state, reset)
            state = knn(part, valid, state, reset).state
        assert (found.ages_BTLHk[:, 5] == 19).all()

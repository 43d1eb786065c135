"""Our Recurrent Memory Transformer with published weights against the outputs of the published code, segment by segment."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from memexp.model.rmt import Rmt

from .transformer_xl import BY_DESIGN, OUTPUTS, Arrays, Reading, build, differ, load, read

CACHE = 8
STARTS = [0, 4]
"""The segments in which documents begin, so that no lane has a cache."""


@cache
def arrays() -> Arrays:
    return load("lm_rmt")


@cache
def reading(*, mem: int, tokens: int, sees_cache: str) -> Reading:
    """What ours makes of the text with `mem` memory tokens and a cache of `tokens` tokens.

    The published code adds no vector for slot and role to memory tokens, and carries the last layer's activations as they are.
    """
    ours: Any = build(Rmt, arrays(), mem=mem, cache=tokens, memory_sees_cache=sees_cache, aux_weight=0.0)
    with torch.no_grad():
        ours.initial_MD.copy_(arrays()["weight.mem_tokens"][:mem, 0])
        ours.read_MD.zero_()
        ours.write_MD.zero_()
    ours.memory_norm = nn.Identity()
    return read(ours, arrays())


def agrees(ours: Reading, case: str) -> None:
    assert differ(ours.hidden_NBTD, arrays()[f"hidden.{case}"]) < OUTPUTS
    assert differ(ours.nats_NBT, arrays()[f"nats.{case}"]) < OUTPUTS
    assert differ(ours.memory_NBMD, arrays()[f"memory.{case}"]) < OUTPUTS


def test_with_one_memory_token_it_is_the_published_code() -> None:
    agrees(reading(mem=1, tokens=0, sees_cache="write"), "plain_m1")


def test_with_more_memory_tokens_it_is_the_published_code_with_true_distances() -> None:
    """The published relative shift takes distances to keys ahead of the query from the row below, at a wrong place.

    Read and write tokens see such keys in their blocks. We hold this to be an error, and give them their true distance.
    """
    ours = reading(mem=3, tokens=0, sees_cache="write")
    agrees(ours, "plain_m3_patched")
    assert differ(ours.nats_NBT, arrays()["nats.plain_m3"]) > BY_DESIGN


def test_with_a_cache_it_is_the_published_code_with_four_changes() -> None:
    """What was changed there, and why ours differs.

    - Distances in the blocks of memory tokens are the true ones, as above.
    - The cache holds tokens alone. In the published code memory tokens are cached as if they were text, and push tokens out.
    - Read tokens have the places of the newest cached tokens, so that tokens follow the cache without a gap.
    - Write tokens see the cache and read tokens do not: our default, between the two choices of the published code.
    """
    agrees(reading(mem=3, tokens=CACHE, sees_cache="write"), "cache_m3_patched")


@pytest.mark.parametrize(("sees_cache", "case"), [("none", "cache_m3_read0"), ("both", "cache_m3_read1")])
def test_who_sees_the_cache_makes_no_difference_before_there_is_one(sees_cache: str, case: str) -> None:
    """At the start of a document ours is the published code with true distances.

    Later it is not, by design: the published cache holds memory tokens too, at other places.
    """
    ours = reading(mem=3, tokens=CACHE, sees_cache=sees_cache)
    hidden, nats = arrays()[f"hidden.{case}_shift_patched"], arrays()[f"nats.{case}_shift_patched"]
    assert differ(ours.hidden_NBTD[STARTS], hidden[STARTS]) < OUTPUTS
    assert differ(ours.nats_NBT[STARTS], nats[STARTS]) < OUTPUTS
    for segment in {1, 2, 3, 5}:
        assert differ(ours.nats_NBT[segment], nats[segment]) > BY_DESIGN
        assert differ(ours.nats_NBT[segment], arrays()[f"nats.{case}"][segment]) > BY_DESIGN

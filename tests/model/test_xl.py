"""Transformer-XL against the plain decoder, and with a window against sliding-window attention."""

import re

import pytest
import torch

from memexp.errors import UserError
from memexp.model.block import Block
from memexp.model.transformer.attention import attend
from memexp.model.vanilla import Vanilla
from memexp.model.xl import Xl

from ..tiny import configure
from .make import make
from .small import COMMON, LENGTH, randomise, read, shape, tokens


@pytest.mark.parametrize("position", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("segment", [8, 16, 5])
def test_xl_with_room_for_everything_is_one_long_pass(position: str, smear: bool, segment: int) -> None:
    options = {**COMMON, "position": position, "key_smear": smear}
    xl = randomise(make(Xl, shape(segment=segment), mem=LENGTH, **options))
    vanilla = make(Vanilla, shape(segment=LENGTH), mem=0, **options).double()
    vanilla.load_state_dict(xl.state_dict())
    text = tokens()
    torch.testing.assert_close(read(xl, text, segment=segment), read(vanilla, text, segment=LENGTH))


@pytest.mark.parametrize("position", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
@pytest.mark.parametrize(("segment", "window"), [(8, 8), (16, 8), (24, 4)])
def test_a_window_is_the_sliding_window_of_block_recurrence(position: str, segment: int, window: int) -> None:
    """Block recurrence without state vectors; it reads the same text window by window, in segments of its own length."""
    options = {**COMMON, "position": position}
    xl = randomise(make(Xl, shape(segment=segment), mem=window, reach="window", **options))
    block = make(Block, shape(segment=window), mem=0, window=window, **options).double()
    block.load_state_dict(xl.state_dict())
    text = tokens()
    hidden = read(xl, text, segment=segment)
    torch.testing.assert_close(hidden, read(block, text, segment=window))
    in_sight = make(Xl, shape(segment=segment), mem=window, **options).double()
    in_sight.load_state_dict(xl.state_dict())
    assert not torch.allclose(hidden, read(in_sight, text, segment=segment))


@pytest.mark.parametrize(
    ("words", "empty"), [(("arch=xl", "mem=0"), "mem is 0"), (("arch=knn", "arch.cache=0"), "arch.cache is 0")]
)
def test_a_window_of_no_token_is_refused(words: tuple[str, ...], empty: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"arch.reach is window but {empty}")):
        configure(*words, "arch.reach=window")


@pytest.mark.parametrize(("segment", "cache", "sinks"), [(8, 8, 3), (8, 12, 1), (16, 4, 6)])
def test_sinks_are_the_first_tokens_of_the_document(segment: int, cache: int, sinks: int) -> None:
    """One layer without positions: full attention under a mask that says which tokens are still there."""
    options = {**COMMON, "position": "none"}
    xl = randomise(make(Xl, shape(segment=segment, layers=1), mem=cache, sinks=sinks, **options))
    text = tokens()
    x = xl.embed(text)
    (layer,) = xl.layers
    heads = layer.attention.project(layer.attention_norm(x), None)
    index = torch.arange(LENGTH)
    begins = index // segment * segment
    there = (index >= begins[:, None] - cache) | (index < sinks)
    there |= begins[:, None] <= cache + sinks  # so far nothing has left the cache
    mixed = attend(layer.attention.look(heads, None), (there & (index <= index[:, None]))[None, None])
    torch.testing.assert_close(read(xl, text, segment=segment), layer.finish(x, mixed))


def test_sinks_need_a_cache() -> None:
    assert make(Xl, shape(segment=8), mem=0, sinks=3, **COMMON).cache_tokens == 0
    assert make(Xl, shape(segment=8), mem=5, sinks=3, **COMMON).cache_tokens == 8

"""Transformer-XL against the plain decoder."""

import pytest
import torch

from memexp.model.vanilla import Vanilla
from memexp.model.xl import Xl

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

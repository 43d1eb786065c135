"""Our recurrent layer against those of Qwen3-Next and Kimi Linear in the package transformers, with its random weights in ours.

Shapes: B lanes, T tokens, D width, H heads, K size of a key, V size of a value.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.config.arch.matrix_memory import DeltaArch
from memexp.model.delta import GatedDelta
from memexp.model.matrix_memory.delta_rule import gated_delta_rule
from memexp.model.transformer.shape import Shape

from .packages import OUTPUTS, SINGLE, differ, double_by_default, in_double, package, random_weights

transformers = package("transformers")
modeling_qwen = package("transformers.models.qwen3_next.modeling_qwen3_next")
modeling_kimi = package("transformers.models.kimi_linear.modeling_kimi_linear")

SHAPE = Shape(vocabulary=31, layers=1, width=16, heads=2, head_size=4, feedforward=24, segment=100)
KEYS, VALUES, LANES = 4, 8, 2


def unit(x: Tensor, dim: int = -1, eps: float = 0.0) -> Tensor:
    """Without the number that is added to the norm there."""
    return F.normalize(x, dim=dim)


@pytest.fixture(params=[True, False], ids=["in double precision", "as published"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    for module in (modeling_qwen, modeling_kimi):
        monkeypatch.setattr(module, "l2norm", unit)
    with in_double(modeling_qwen, modeling_kimi) if request.param else double_by_default():
        yield OUTPUTS if request.param else 4 * SINGLE  # a recurrence carries rounding on


@torch.no_grad()
def ours_of(theirs: Any) -> GatedDelta:
    """Our layer with the weights of theirs, whose projections are sorted by heads: q, k, v and gate of the first, then of the next."""
    arch = DeltaArch(name="delta")
    ours = GatedDelta(SHAPE, KEYS, arch).double()
    by_head = theirs.in_proj_qkvz.weight.unflatten(0, (2, -1)).split([KEYS, KEYS, VALUES, VALUES], dim=1)
    q, k, v, gate = (part.flatten(0, 1) for part in by_head)
    ours.heads.projection.weight.copy_(torch.cat([q, k, v]))
    ours.heads.convolution.weight.copy_(theirs.conv1d.weight.squeeze(1).T)
    strength, steps = theirs.in_proj_ba.weight.unflatten(0, (2, 2)).unbind(1)
    ours.strength.weight.copy_(strength)
    assert ours.decay is not None
    ours.decay.steps.weight.copy_(steps)  # type: ignore[operator]
    ours.decay.log_rate_H.copy_(theirs.A_log)
    ours.decay.step_bias_P.copy_(theirs.dt_bias)
    ours.output.gate.weight.copy_(gate)
    ours.output.norm.weight.copy_(theirs.norm.weight)
    ours.output.projection.weight.copy_(theirs.out_proj.weight)
    return ours


@torch.no_grad()
def test_a_layer_in_segments_is_the_layer_of_qwen3_next_at_once(tolerance: float) -> None:
    config = transformers.Qwen3NextConfig(
        hidden_size=16, num_hidden_layers=1, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=KEYS,
        linear_value_head_dim=VALUES, linear_conv_kernel_dim=4,
    )  # fmt: skip
    theirs = modeling_qwen.Qwen3NextGatedDeltaNet(config, 0).double().eval()
    random_weights(theirs)
    ours, x_BTD = ours_of(theirs), torch.randn(LANES, 150, 16, generator=torch.Generator().manual_seed(2)).double()
    tail_BWP, memory, outputs = torch.zeros(LANES, 3, sum(ours.heads.sizes)).double(), ours.initial(LANES), []
    for piece_BTD in x_BTD.split([100, 1, 2, 47], dim=1):
        mixed = ours(piece_BTD, torch.ones(piece_BTD.shape[:2], dtype=torch.bool), tail_BWP, memory)
        tail_BWP, memory = mixed.tail_BWP, mixed.memory
        outputs.append(mixed.output_BTD)
    assert differ(torch.cat(outputs, dim=1), theirs(x_BTD)) < tolerance


@torch.no_grad()
def test_a_decay_of_each_row_is_kimi_delta_attention(tolerance: float) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(LANES, 90, 2, size, generator=generator).double() for size in (KEYS, KEYS, VALUES))
    log_decay, strength = (
        -torch.rand(LANES, 90, 2, KEYS, generator=generator).double(),
        torch.rand(LANES, 90, 2).double(),
    )
    reads_BTHV, memory_BHKV = modeling_kimi.chunk_kimi_delta_attention(
        q, k, v, g=log_decay, beta=strength, initial_state=None, output_final_state=True, use_qk_l2norm_in_kernel=True
    )  # fmt: skip
    q, k, v, log_decay = (x.transpose(1, 2) for x in (unit(q) / KEYS**0.5, unit(k), v, log_decay))
    nothing_BHKV = torch.zeros(LANES, 2, KEYS, VALUES).double()
    ours = gated_delta_rule(nothing_BHKV, q, k, v, strength.mT, log_decay, corrects=True)
    assert differ(ours.reads_BHTV, reads_BTHV.transpose(1, 2)) < tolerance
    assert differ(ours.memory_BHKV, memory_BHKV) < tolerance

"""The baseline of the benchmark, which shares no code with the models, computes what `vanilla` computes."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from memexp.bench.others.plain_decoder import PlainDecoder
from memexp.config.arch.transformer import VanillaArch
from memexp.config.groups import Size
from memexp.config.train import TrainConfig
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel

VOCABULARY, LANES, SEGMENT = 23, 3, 12
SIZE = Size(name="test", layers=3, width=24, heads=3, head_size=8, feedforward=40)


class Pair(NamedTuple):
    vanilla: SegmentModel
    plain: PlainDecoder
    tokens: Tensor


@pytest.fixture(params=["none", "rotary"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Both with the same random weights, and a text."""
    torch.manual_seed(0)
    arch = VanillaArch(_target_="memexp.model.vanilla.Vanilla", name="vanilla", position=request.param, scale=5.0)
    config = TrainConfig(arch=arch, size=SIZE, segment=SEGMENT, lanes=LANES)
    vanilla = build_model(config, vocabulary=VOCABULARY).double()
    with torch.no_grad():
        for parameter in vanilla.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    plain = PlainDecoder(
        vocabulary=VOCABULARY,
        layers=3,
        width=24,
        heads=3,
        head_size=8,
        feedforward=40,
        context=SEGMENT,
        rotary=request.param == "rotary",
    ).double()
    plain.load_state_dict(translated(dict(vanilla.named_parameters())))
    return Pair(vanilla, plain, torch.randint(VOCABULARY, (LANES, SEGMENT)))


def translated(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Vanilla's weights under the baseline's names; every one is used."""
    left = {name: tensor.detach() for name, tensor in ours.items()}
    plain = {"embedding.weight": left.pop("head.embedding_VD"), "norm.weight": left.pop("head.norm.weight")}
    for number in range(SIZE.layers):
        layer = f"layers.{number}."
        queries, values = left.pop(f"{layer}attention.queries_values.weight").chunk(2)
        keys = left.pop(f"{layer}attention.keys.weight")
        plain |= {
            f"{layer}attention_norm.weight": left.pop(f"{layer}attention_norm.weight"),
            f"{layer}queries_keys_values.weight": torch.cat([queries, keys, values]),
            f"{layer}scale": left.pop(f"{layer}attention.scale_H").abs().view(-1, 1, 1),
            f"{layer}output.weight": left.pop(f"{layer}attention.output.weight"),
            f"{layer}feedforward_norm.weight": left.pop(f"{layer}feedforward_norm.weight"),
            f"{layer}feedforward.0.weight": left.pop(f"{layer}feedforward.rise.weight"),
            f"{layer}feedforward.2.weight": left.pop(f"{layer}feedforward.fall.weight"),
        }
    assert left == {}
    return plain


def logits_of_vanilla(pair: Pair) -> Tensor:
    valid, reset = torch.ones_like(pair.tokens, dtype=torch.bool), torch.ones(LANES, dtype=torch.bool)
    output = pair.vanilla(pair.tokens, valid, pair.vanilla.init_state(LANES), reset)
    return pair.vanilla.head.logits(output.hidden_BTD)


def test_vanilla_is_the_plain_decoder(pair: Pair) -> None:
    ours, plain = logits_of_vanilla(pair), pair.plain(pair.tokens)
    assert plain.std() > 0.1
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)  # rotary angles are computed in single precision


def test_gradients_agree(pair: Pair) -> None:
    """So both do the same work backwards."""
    for logits in (logits_of_vanilla(pair), pair.plain(pair.tokens)):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), pair.tokens.flatten()).backward()
    ours = pair.vanilla.head.embedding_VD.grad
    assert ours is not None
    assert ours.abs().max() > 1e-4
    torch.testing.assert_close(ours, pair.plain.embedding.weight.grad, rtol=1e-5, atol=1e-7)

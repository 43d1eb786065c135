"""The gated delta rule against a loop over tokens, and the layers against their equations written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.delta import Delta
from memexp.model.matrix_memory.delta_rule import Written, gated_delta_rule
from memexp.model.segment import SegmentModel
from memexp.model.xl import Xl

from .make import make
from .small import COMMON, LANES, gain, in_window, randomise, read, shape, tokens, unit

LENGTH, KEYS, VALUES = 24, 6, 5


def delta(*, segment: int, layers: int = 3, mem: int = 4, **options: object) -> SegmentModel:
    merged = {**COMMON, "position": "t5", "window": 8, **options}
    torch.manual_seed(7)
    return randomise(make(Delta, shape(segment=segment, layers=layers), mem=mem, **merged))  # type: ignore[arg-type]


class Given:
    """A matrix and random tokens, in double precision."""

    def __init__(self, decay: str) -> None:
        torch.manual_seed(0)
        rows = {"none": 0, "head": 1, "channel": KEYS}[decay]
        self.memory = torch.randn(2, 3, KEYS, VALUES).double()
        self.queries, self.keys = (torch.randn(2, 3, LENGTH, KEYS).double() for _ in range(2))
        self.keys = unit(self.keys)
        self.values, self.strength = torch.randn(2, 3, LENGTH, VALUES).double(), torch.rand(2, 3, LENGTH).double()
        self.log_decay = -3 * torch.rand(2, 3, LENGTH, rows).double() if rows else None

    def read(self, *, corrects: bool, chunk: int | None) -> Written:
        return gated_delta_rule(
            self.memory, self.queries, self.keys, self.values, self.strength, self.log_decay, corrects=corrects, chunk=chunk
        )  # fmt: skip

    def loop(self, *, corrects: bool) -> Written:
        """One token after another: forget, then correct, then read."""
        memory, reads = self.memory, []
        for t in range(LENGTH):
            if self.log_decay is not None:
                memory = memory * self.log_decay[:, :, t].exp()[..., None]
            k, v = self.keys[:, :, t], self.values[:, :, t]
            known = torch.einsum("bhk,bhkv->bhv", k, memory) if corrects else 0
            memory = memory + torch.einsum("bhk,bhv->bhkv", k, self.strength[:, :, t, None] * (v - known))
            reads.append(torch.einsum("bhk,bhkv->bhv", self.queries[:, :, t], memory))
        return Written(torch.stack(reads, 2), memory)


@pytest.mark.parametrize("chunk", [1, 3, 8, LENGTH, None])
@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("decay", ["none", "head", "channel"])
def test_chunks_of_any_size_are_the_rule_token_by_token(decay: str, corrects: bool, chunk: int | None) -> None:
    given = Given(decay)
    expected = given.loop(corrects=corrects)
    torch.testing.assert_close(given.read(corrects=corrects, chunk=chunk), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", ["head", "channel"])
def test_what_is_forgotten_at_once_leaves_no_nan(decay: str) -> None:
    """In single precision the decays of a chunk vanish after 30 tokens; their quotients must not be 0 / 0, also in the gradient."""
    given = Given(decay)
    assert given.log_decay is not None
    given.log_decay = torch.full_like(given.log_decay, -8.0).float().requires_grad_()
    given.memory, given.queries, given.keys, given.values, given.strength = (
        x.float() for x in (given.memory, given.queries, given.keys, given.values, given.strength)
    )
    written = given.read(corrects=True, chunk=None)
    (gradient,) = torch.autograd.grad(written.reads_BHTV.sum(), [given.log_decay])
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(written, given.loop(corrects=True))


def test_rows_that_decay_alike_decay_as_a_head() -> None:
    given = Given("head")
    assert given.log_decay is not None
    by_head = given.read(corrects=True, chunk=8)
    given.log_decay = given.log_decay.expand(-1, -1, -1, KEYS)
    torch.testing.assert_close(given.read(corrects=True, chunk=8), by_head)


def test_a_value_that_is_written_again_replaces_the_old_one_and_no_other() -> None:
    """Keys that are orthonormal, each written four times."""
    given = Given("none")
    keys = torch.linalg.qr(torch.randn(KEYS, KEYS).double()).Q
    order = torch.arange(LENGTH) % KEYS
    given.keys, given.strength = keys[order].expand(2, 3, -1, -1), torch.ones_like(given.strength)
    written = given.read(corrects=True, chunk=8)
    recalled = keys @ written.memory_BHKV
    torch.testing.assert_close(recalled, given.values[:, :, -KEYS:])


@pytest.mark.parametrize("segment", [8, 16, 48])
@pytest.mark.parametrize(
    "options",
    [{}, {"decay": "channel", "window": 5}, {"write": "add", "unit_keys": False, "window": 0, "position": "none"}],
    ids=str,
)  # fmt: skip
def test_it_does_not_matter_how_a_text_is_cut_into_segments(segment: int, options: dict[str, object]) -> None:
    whole, cut = (read(delta(segment=each, **options), tokens(), segment=each) for each in (24, segment))
    torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize("position", ["t5", "rotary"])
def test_without_a_memory_it_is_transformer_xl_with_a_window(position: str) -> None:
    ours = delta(segment=16, mem=0, position=position)
    options = {**COMMON, "position": position, "reach": "window"}
    xl = make(Xl, shape(segment=16, layers=3), mem=8, **options).double()
    xl.load_state_dict(ours.state_dict())
    torch.testing.assert_close(read(ours, tokens(), segment=16), read(xl, tokens(), segment=16))


@pytest.mark.parametrize("decay", ["none", "head", "channel"])
@pytest.mark.parametrize("write", ["delta", "add"])
def test_layers_are_their_equations_written_out(write: str, decay: str) -> None:
    """Two recurrent layers around one with attention, token by token, from the weights by name."""
    options: dict[str, object] = {} if write == "delta" else {"unit_keys": False}
    model, text = delta(segment=8, window=3, write=write, decay=decay, **options), tokens()[:, :32]
    own = dict(model.named_parameters())
    x = own["head.embedding_VD"][text]
    for name in ("recurrent.0", "layers.0", "recurrent.1"):
        layer = {key.removeprefix(f"{name}."): value for key, value in own.items()}
        y = gain(x, layer["attention_norm.weight"])
        if name == "layers.0":
            x = x + in_window(y, layer, reach=3) @ layer["attention.output.weight"].T
        else:
            x = x + recurrence_of(y, layer, write, decay)
        y = gain(x, layer["feedforward_norm.weight"])
        x = x + (y @ layer["feedforward.rise.weight"].T).relu() @ layer["feedforward.fall.weight"].T
    torch.testing.assert_close(read(model, text, segment=8), x)


def recurrence_of(y: Tensor, layer: dict[str, Tensor], write: str, decay: str) -> Tensor:
    """Two heads with keys of size 4 and values of size 8."""
    projected = y @ layer["attention.heads.projection.weight"].T
    before = torch.cat([torch.zeros(LANES, 3, 32).double(), projected], dim=1)
    taps = layer["attention.heads.convolution.weight"]
    convolved = F.silu(sum(before[:, tap : tap + y.shape[1]] * taps[tap] for tap in range(4)))  # type: ignore[arg-type]
    strength = (y @ layer["attention.strength.weight"].T).sigmoid()
    heads = []
    for head in range(2):
        q, k = (convolved[..., start + 4 * head : start + 4 * head + 4] for start in (0, 8))
        v = convolved[..., 16 + 8 * head : 24 + 8 * head]
        if write == "delta":
            q, k = unit(q), unit(k)
        matrix, reads = torch.zeros(LANES, 4, 8).double(), []
        for t in range(y.shape[1]):
            matrix = alpha_of(y[:, t], layer, decay, head)[..., None] * matrix
            known = torch.einsum("bk,bkv->bv", k[:, t], matrix) if write == "delta" else 0
            matrix = matrix + k[:, t, :, None] * (strength[:, t, head, None] * (v[:, t] - known))[:, None]
            reads.append(torch.einsum("bk,bkv->bv", q[:, t] / 4**0.5, matrix))
        heads.append(gain(torch.stack(reads, 1), layer["attention.output.norm.weight"]))
    return (torch.cat(heads, -1) * F.silu(y @ layer["attention.output.gate.weight"].T)) @ layer[
        "attention.output.projection.weight"
    ].T


def alpha_of(y: Tensor, layer: dict[str, Tensor], decay: str, head: int) -> Tensor:
    if decay == "none":
        return torch.ones(LANES, 1).double()
    part = slice(4 * head, 4 * head + 4) if decay == "channel" else slice(head, head + 1)
    if decay == "channel":
        steps = y @ layer["attention.decay.steps.0.weight"].T @ layer["attention.decay.steps.1.weight"].T
    else:
        steps = y @ layer["attention.decay.steps.weight"].T
    rate = layer["attention.decay.log_rate_H"][head].exp()
    return (-rate * F.softplus(steps + layer["attention.decay.step_bias_P"])[..., part]).exp()


def test_decays_start_as_in_mamba() -> None:
    """Rates below 16 and steps between 0.001 and 0.1, neither with weight decay."""
    model = make(Delta, shape(segment=8), mem=4, **{**COMMON, "position": "t5", "decay": "channel"})
    for name, parameter in model.named_parameters():
        if name.endswith("log_rate_H"):
            assert (parameter.exp() < 16).all()
        elif name.endswith("step_bias_P"):
            steps = F.softplus(parameter)
            assert ((steps > 0.00099) & (steps < 0.101)).all()
        else:
            continue
        assert parameter.is_gate  # type: ignore[attr-defined]

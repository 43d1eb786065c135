"""State vectors against the outputs of another published implementation, over four windows."""

import torch
from torch import Tensor

from memexp.config.arch.slot_memory import BlockArch
from memexp.model.slot_memory.vectors import StateReader, StateVectors
from memexp.model.transformer.attention import join_heads
from memexp.model.transformer.shape import Shape

from .arrays import Published, difference

PUBLISHED = Published("lucidrains_state_container")
SHAPE = Shape(
    vocabulary=1, layers=1, width=PUBLISHED.const("width"), heads=PUBLISHED.const("heads"),
    head_size=PUBLISHED.const("head_size"), feedforward=1, segment=PUBLISHED.const("tokens"),
)  # fmt: skip
ARCH = BlockArch(shared_values=True, normalise=False, gate_kind="fixed", gates="skip")


@torch.no_grad()
def build() -> tuple[StateVectors, StateReader]:
    """State vectors and their reader with the published weights."""
    vectors = StateVectors(SHAPE, ARCH, count=PUBLISHED.const("num_state_vectors")).double()
    reader = StateReader(SHAPE, ARCH).double()
    weights = PUBLISHED.below("")
    vectors.initial_MD.copy_(weights.pop("init_state"))
    vectors.ids_MD.copy_(weights.pop("state_pos_ids"))
    vectors.norm.weight.copy_(weights.pop("state_norm.gamma"))
    vectors.norm.eps = PUBLISHED.const("layernorm_eps")
    keys, values = weights.pop("state_to_kv.weight").chunk(2)
    vectors.keys.weight.copy_(keys)
    vectors.values.weight.copy_(values)
    vectors.over_vectors.queries.weight.copy_(weights.pop("state_to_q.weight"))
    vectors.over_tokens.queries.weight.copy_(weights.pop("q_from_state.weight"))
    reader.attention.queries.weight.copy_(weights.pop("q_to_state.weight"))
    # two projections in a row; the columns of the first are ordered by head, then own or text, and ours the other way
    first = (
        weights.pop("to_state_out.weight").unflatten(1, (SHAPE.heads, 2, SHAPE.head_size)).transpose(1, 2).flatten(1)
    )
    vectors.cell.candidate.weight.copy_(weights.pop("state_out_to_gate.weight") @ first)
    vectors.cell.candidate.bias.copy_(weights.pop("state_out_to_gate.bias"))
    vectors.cell.gate_D.copy_(
        -weights.pop("learned_ema_beta")
    )  # there the sigmoid weighs the new vectors, here the old
    assert not weights
    return vectors, reader


@torch.no_grad()
def windows() -> tuple[Tensor, Tensor]:
    """What the tokens of each window read, and the state vectors after it."""
    vectors, reader = build()
    state, read, states = vectors.initial_MD.expand(PUBLISHED.const("lanes"), -1, -1), [], []
    for hidden, keys, values in zip(
        *(PUBLISHED[name] for name in ("tokens_hidden", "token_keys", "token_values")), strict=True
    ):
        seen = vectors.see(state)
        read.append(join_heads(reader(hidden, seen).read_BHTK))
        everywhere = torch.ones(1, 1, 1, keys.shape[1], dtype=torch.bool)
        state = vectors.rewrite(seen, keys[:, None], values[:, None], everywhere).new_BMD
        states.append(state)
    return torch.stack(read), torch.stack(states)


def test_what_is_read_and_written_is_published() -> None:
    """The later windows differ from the published ones by design: there LayerNorm takes the mean from the state vectors.

    The initial state vectors of the file have mean 0, so that in the first window both norms are the same.
    """
    for name, ours in zip(("read", "states"), windows(), strict=True):
        assert difference(ours, PUBLISHED[f"{name}_patched"]) < 1e-10
        assert difference(ours[0], PUBLISHED[name][0]) < 1e-10
        assert difference(ours[1:], PUBLISHED[name][1:]) > 0.5

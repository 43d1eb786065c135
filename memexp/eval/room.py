"""The memory that scoring takes on a device; nothing is measured or allocated."""

from typing import NamedTuple

from torch.utils import _pytree as pytree

from memexp.model.segment import SegmentModel
from memexp.model.state import state_bytes
from memexp.model.transformer.head import LOGITS_AT_ONCE
from memexp.model.transformer.kept import FULL, HALF


class Room(NamedTuple):
    """Bytes, without those of the weights."""

    here: int
    """On the device of the model."""
    elsewhere: int
    """In the host's memory, beside a GPU."""


def room(model: SegmentModel, *, lanes: int, half: bool, on_gpu: bool, foreign: bool = False) -> Room:
    """What scoring needs beside the weights, at the moment when it takes most.

    That is either when the last search of a stride runs, or a layer, or the output layer; or when a lane is left out, because its
    documents have ended: then one tensor of the state is there twice. On a CPU the work of a stride is not counted.

    Args:
        model: may be on the device "meta".
        lanes: documents that are read in parallel; with one of them no lane is left out.
        half: whether products are in bf16. Then the weights are there in bf16 too.
        foreign: whether the memories are of other documents, which are read beside those that are scored.
    """
    state, cost = model.init_state(1), model.memory_cost
    memory, caches = lanes * state_bytes(state.memory), lanes * state_bytes(state.cache)
    elsewhere = memory if on_gpu and cost.on_host else 0
    memory = (memory - elsewhere) * cost.copies
    largest = [max(map(state_bytes, pytree.tree_leaves(part)), default=0) for part in (state.memory, state.cache)]
    # of the state of n lanes, n - 1 lanes are copied
    of_memory, of_cache = ((lanes - 1) * size for size in largest)
    left_out = of_cache if elsewhere else max(of_memory, of_cache)
    work = _work(model, lanes=lanes, half=half) if on_gpu else FULL * lanes * model.shape.segment * model.shape.width
    in_bf16 = HALF * sum(parameter.numel() for parameter in model.parameters()) if half else 0
    return Room(
        memory + (3 if foreign else 2) * caches + in_bf16 + max(left_out, work),
        elsewhere + of_memory if elsewhere else 0,
    )


def _work(model: SegmentModel, *, lanes: int, half: bool) -> int:
    """What a search needs on an accelerator, or a layer and the output layer, which is about what a layer keeps for a backward pass."""
    of_layers = model.activations(half=half)
    layer = lanes * of_layers.layers / model.shape.layers
    logits = 2 * FULL * min(lanes * model.shape.segment * model.head.most_logits, LOGITS_AT_ONCE)
    return max(model.memory_cost.scratch(lanes), int(layer) + logits)

"""The memory that scoring takes on a device; nothing is measured or allocated."""

from typing import NamedTuple

from torch.utils import _pytree as pytree

from memexp.model.segment import SegmentModel
from memexp.model.state import state_bytes
from memexp.model.transformer.by_lanes import AT_ONCE
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
    memory -= elsewhere
    largest = [max(map(state_bytes, pytree.tree_leaves(part)), default=0) for part in (state.memory, state.cache)]
    # of the state of n lanes, n - 1 lanes are copied
    of_memory, of_cache = ((lanes - 1) * size for size in largest)
    left_out = of_cache if elsewhere else max(of_memory, of_cache)
    in_bf16 = HALF * _multiplied(model) if half else 0
    cache = model.cache_kept(caches, half=half)
    if on_gpu:
        work = _work(model, lanes=lanes, half=half, cache=cache)
    else:
        work = FULL * lanes * model.shape.segment * model.shape.width
    reading = memory * cost.copies + (2 + foreign) * cache + work
    leaving = memory + (1 + foreign) * cache + left_out
    return Room(int(max(reading, leaving)) + in_bf16, elsewhere + of_memory if elsewhere else 0)


def _multiplied(model: SegmentModel) -> int:
    """The weights that are multiplied in bf16: not those of the output layer."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head."))


def _work(model: SegmentModel, *, lanes: int, half: bool, cache: float) -> float:
    """What a layer of all lanes, its search or the output layer holds at most on an accelerator.

    Args:
        cache: bytes of the next cache, of which each layer makes its part after it has read.
    """
    held, tokens = model.held(half=half), lanes * model.shape.segment
    cost, layers = model.memory_cost, max(1, model.attention_layers)
    added = min(lanes * held.added, max(AT_ONCE, held.added)) * (1 + held.padded)
    attention = lanes * held.attention + added - cache / layers
    scratch = cost.scratch(lanes)
    # a search is made in one of the layers, before those that follow have made their caches
    memory = lanes * held.memory + scratch - cache * (1 - cost.search_at) * (scratch > 0)
    # what comes out of the layers, before and after the last norm, logits and their logarithms
    loss = FULL * (2 * tokens * model.shape.width + 2 * min(tokens * model.head.most_logits, LOGITS_AT_ONCE))
    return max(lanes * held.feedforward, attention, memory, loss)

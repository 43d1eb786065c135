"""The contract of `memexp.model.segment`, one numbered test or more a clause, over every file in conf/arch."""

import math
from dataclasses import Field, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from memexp.config.arch import ARCHS
from memexp.config.field import default_of
from memexp.config.groups import PLACES
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.state import State, detach, fork, pack, state_bytes, unpack
from memexp.model.watching import watching
from memexp.train.checkpoint import random_state, restore_random_state

from ..tiny import configure
from .conftest import POSITIONS, SEGMENT, SEGMENTS, VOCABULARY, Case, Text, build, run

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def options_of(arch: str) -> dict[str, Field[Any]]:
    """The options of an architecture by name, as its schema declares them."""
    return {item.name: item for item in fields(ARCHS[arch]) if item.name not in ("_target_", "name")}


def bounded_by_mem(arch: str) -> bool:
    """Whether `mem` counts the pairs that neighbours are retrieved from."""
    return "neighbours" in options_of(arch) and "pairs" not in options_of(arch)


OF_THE_MEMORY = ("memories.", "compressors.")
"""Parameters that are there without a memory too, so that its size can be changed, and then have no use."""


def far_reach(case: Case) -> int:
    """Tokens that information can come from without a memory: layers x (segment + cache), and one a layer by smear."""
    return case.config.size.layers * (SEGMENT + case.model.cache_tokens + 1)


# 1. Form


def test_1_shapes_types_and_bytes_do_not_change(case: Case, text: Text) -> None:
    state = case.model.init_state(3)
    form = [(leaf.shape, leaf.dtype) for leaf in pytree.tree_leaves(state)]
    size = state_bytes(state)
    hidden, last = run(case.model, text, state)
    assert hidden.shape == (SEGMENTS, 3, SEGMENT, case.config.size.width)
    assert torch.isfinite(hidden).all()
    assert [(leaf.shape, leaf.dtype) for leaf in pytree.tree_leaves(last)] == form
    assert pytree.tree_structure(last) == pytree.tree_structure(state)
    assert state_bytes(last) == size
    assert all(leaf.shape[0] == 3 for leaf in pytree.tree_leaves(last))


def test_1_packed_state_comes_back(case: Case, text: Text) -> None:
    _, state = run(case.model, text)
    restored = unpack(pack(state), like=case.model.init_state(1), lanes=3)
    more = text.tokens[:1], text.valid[:1], torch.zeros_like(text.reset[:1])
    expected, _ = run(case.model, Text(*more), fork(state))
    found, _ = run(case.model, Text(*more), restored)
    assert torch.equal(found, expected)


# 2. Causality


def test_2_a_token_changes_nothing_before_it(placed: Case, text: Text) -> None:
    before, _ = run(placed.model, text)
    changed = text.tokens.clone()
    changed[7, :, 4] = (changed[7, :, 4] + 1) % VOCABULARY
    after, _ = run(placed.model, text._replace(tokens=changed))
    assert torch.equal(after[:7], before[:7])
    torch.testing.assert_close(after[7, :, :4], before[7, :, :4], **CLOSE)
    assert not torch.allclose(after[7, :, 4], before[7, :, 4])


# 3. Forgetting


def test_3_a_reset_is_a_new_beginning(placed: Case, text: Text) -> None:
    _, used = run(placed.model, text)
    first = torch.ones_like(text.reset)
    first[1:] = False
    found, _ = run(placed.model, text._replace(reset=first), fork(used))
    never = torch.zeros_like(text.reset)
    expected, _ = run(placed.model, text._replace(reset=never), placed.model.init_state(3))
    torch.testing.assert_close(found, expected, **CLOSE)


# 4. Lanes


def test_4_permuted_lanes_give_permuted_outputs(case: Case, text: Text) -> None:
    """In double precision: products round by the order of lanes, and what corrects a memory by its own prediction enlarges that."""
    order = torch.tensor([2, 0, 1])
    model = case.model.double()
    hidden, _ = run(model, text)
    permuted, _ = run(model, Text(*(part[:, order] for part in text)))
    torch.testing.assert_close(permuted, hidden[:, order], **CLOSE)


def test_4_nothing_leaks_between_lanes_or_documents(case: Case, text: Text) -> None:
    hidden, _ = run(case.model, text)
    changed = text.tokens.clone()
    changed[:5, 1] = (changed[:5, 1] + 1) % VOCABULARY  # all of lane 1's first document
    after, _ = run(case.model, text._replace(tokens=changed))
    torch.testing.assert_close(after[:, [0, 2]], hidden[:, [0, 2]], **CLOSE)
    torch.testing.assert_close(after[5:, 1], hidden[5:, 1], **CLOSE)
    assert not torch.allclose(after[:5, 1], hidden[:5, 1])


# 5. Padding


def test_5_padding_changes_no_score_no_gradient_and_nothing_later(case: Case, text: Text) -> None:
    def scores(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(4)
        case.model.zero_grad()
        state, nats, aux = case.model.init_state(3), [], torch.zeros(())
        for piece, targets, valid, reset in zip(tokens, text.tokens, text.valid, text.reset, strict=True):
            output = case.model(piece, valid, state, reset)
            state = output.state
            nats.append(case.model.head.nats(output.hidden_BTD, targets) * valid)
            aux = aux + sum(output.aux.values())
        (torch.stack(nats).sum() + aux).backward()
        gradients = [p.grad.clone() for p in case.model.parameters() if p.grad is not None]
        return torch.stack(nats).detach(), aux.detach(), gradients

    nats, aux, gradients = scores(text.tokens)
    other, other_aux, other_gradients = scores(torch.where(text.valid, text.tokens, (text.tokens + 7) % VOCABULARY))
    torch.testing.assert_close(other, nats, **CLOSE)
    torch.testing.assert_close(other_aux, aux, **CLOSE)
    for found, expected in zip(other_gradients, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# 6. Persistence


def test_6_a_segment_computed_again_gives_the_same(arch: str, text: Text) -> None:
    case = build(arch, bptt_segments=2)
    _, state = run(case.model, Text(*(part[:-3] for part in text)))
    window = Text(*(part[-3:] for part in text))  # as long as a gradient window: what it writes must not reach back
    states, hidden = [state], []
    for tokens, valid, reset in zip(*window, strict=True):
        output = case.model(tokens, valid, states[-1], reset)
        hidden.append(output.hidden_BTD)
        states.append(output.state)
    for index in (2, 0, 1, 0):
        again = case.model(window.tokens[index], window.valid[index], states[index], window.reset[index])
        torch.testing.assert_close(again.hidden_BTD, hidden[index], **CLOSE)


def test_6_a_fork_goes_its_own_way(case: Case, text: Text) -> None:
    _, state = run(case.model, text)
    copy = fork(state)
    expected, _ = run(case.model, text._replace(reset=torch.zeros_like(text.reset)), fork(state))
    other = (text.tokens + 3) % VOCABULARY
    run(case.model, text._replace(tokens=other, reset=torch.zeros_like(text.reset)), state)  # writes over `state`
    found, _ = run(case.model, text._replace(reset=torch.zeros_like(text.reset)), copy)
    assert torch.equal(found, expected)


# 7. Horizon


@pytest.mark.parametrize("horizon", range(5))
def test_7_a_gradient_crosses_exactly_the_borders_of_its_window(arch: str, horizon: int) -> None:
    """Each of five segments has tokens of its own, so the embedding's rows tell which of them the last one's loss reaches.

    Where the papers let no gradient into a cache or a memory, none crosses a border at any horizon.
    """
    case = build(arch, bptt_segments=horizon)
    tokens = torch.arange(5 * SEGMENT).view(5, 1, SEGMENT)
    state = case.model.init_state(1)
    for index, segment in enumerate(tokens):
        if index == 4 - horizon:
            state = detach(state)
        reset = torch.tensor([index == 0])
        output = case.model(segment, torch.ones_like(segment, dtype=torch.bool), state, reset)
        state = output.state
    (gradient_VD,) = torch.autograd.grad(output.hidden_BTD.square().sum(), [case.model.head.embedding_VD])
    reached = (gradient_VD.abs().sum(-1)[: 5 * SEGMENT].view(5, SEGMENT).sum(-1) > 0).tolist()
    crosses = case.config.arch.gradient_through_memory or case.config.arch.gradient_through_cache
    crossed = horizon if crosses else 0
    assert reached == [index >= 4 - crossed for index in range(5)]


def test_7_gradient_reaches_every_parameter(case: Case, text: Text) -> None:
    state, loss = case.model.init_state(3), torch.zeros(())
    for tokens, valid, reset in zip(*text, strict=True):
        output = case.model(tokens, valid, state, reset)
        state = output.state
        loss = loss + case.model.head.nats(output.hidden_BTD, tokens).sum() + sum(output.aux.values())
    loss.backward()
    for name, parameter in case.model.named_parameters():
        if case.model.memory_slots == 0 and name.startswith(OF_THE_MEMORY):
            continue
        if not parameter.requires_grad:  # of a published checkpoint, frozen
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


# 8. Liveness


def far_change(case: Case) -> torch.Tensor:
    """How much the last segment's hidden state moves when the first segment changes, beyond the reach of caches."""
    case.model.eval()
    segments = far_reach(case) // SEGMENT + 3
    torch.manual_seed(2)
    tokens = torch.randint(VOCABULARY, (segments, 2, SEGMENT))
    reset = torch.zeros(segments, 2, dtype=torch.bool)
    reset[0] = True
    text = Text(tokens, torch.ones_like(tokens, dtype=torch.bool), reset)
    hidden, _ = run(case.model, text)
    changed = tokens.clone()
    changed[0] = (changed[0] + 1) % VOCABULARY
    after, _ = run(case.model, text._replace(tokens=changed))
    return (after[-1] - hidden[-1]).abs().max()


def test_8_memory_reaches_beyond_layers_times_window_and_cache(arch: str) -> None:
    # neighbours=mem reads everything, so that a change anywhere in memory must show
    keep_all = ["mem=400", "arch.neighbours=400"] if bounded_by_mem(arch) else []
    case = build(arch, *keep_all)
    moved = far_change(case)
    if case.model.memory_slots or arch == "xl_enhanced":  # whose cache hands on what it was made of
        assert moved > 1e-4
    else:
        assert moved == 0


def test_8_without_memory_nothing_reaches_so_far(arch: str) -> None:
    options = options_of(arch)
    unused = [f"arch.{name}={default_of(item)}" for name, item in options.items() if item.metadata["of_memory"]]
    assert far_change(build(arch, "mem=0", *unused, *(["arch.pairs=0"] if "pairs" in options else []))) == 0


def test_8_a_cache_reaches_the_segment_before(arch: str, text: Text) -> None:
    case = build(arch)
    changed = text.tokens.clone()
    changed[1] = (changed[1] + 1) % VOCABULARY
    before, _ = run(case.model, text)
    after, _ = run(case.model, text._replace(tokens=changed))
    assert torch.allclose(after[2], before[2]) == (case.model.cache_tokens == 0 and case.model.memory_slots == 0)


# 9. Options

SEMANTIC = {
    "position": POSITIONS,
    "normalise": ["true", "false arch.scale=1"],
    "scale": ["4.0", "5.0"],
    "dropout": ["0.0", "0.5"],
    "cache": ["8", "16"],
    "place": [f"{place} arch.position=rotary" for place in PLACES],
    "memory_sees_cache": ["none arch.cache=8", "write arch.cache=8", "both arch.cache=8"],
    "knn_layers": ["[1]", "[2]", "[1,2]"],
    "neighbours": ["4", "5"],
    "negatives": [
        f"{number} arch.combine=joint arch.search=exact bptt_segments={min(number, 1)} accumulate=2 lanes=3"
        for number in range(3)
    ],
    "pairs": ["32", "64"],
    "search": ["exact", "bucketed", "routed"],
    "factor": ["2", "4"],
    "chunk": ["8", "4"],
    "role": ["gate", "context arch.window=0", "layer arch.window=0"],
    "gate": ["0.0", "1.0"],
    "aux_weight": ["0.0", "0.5"],
    "window": ["8", "4"],
    "recurrent_layers": [f"{layers} size.layers=3" for layers in ("[1]", "[2]", "[1,2]")],
    "state_dropout": ["0.0", "0.5"],
    "cache_dropout": ["0.0", "0.5"],
    "unit_keys": ["true arch.write=add", "false arch.write=add"],
    "updater_layers": ["1", "2"],
    "recall": ["0.0", "0.5"],
    "recall_target": ["tokens", "embeddings"],
    "composition": ["0.0", "0.125"],
    "variance": ["0.0", "1.0"],
    "covariance": ["0.0", "0.04"],
    "faithful": ["false arch.recall_target=embeddings", "true arch.recall_target=embeddings"],
}
"""Values that must give different outputs, of the options whose schema does not tell which to try."""


def values_of(item: Field[Any]) -> list[str]:
    """Values of an option to try: those above, all that its schema allows, or its default and another number."""
    if item.name in SEMANTIC:
        return SEMANTIC[item.name]
    if item.type is bool:
        return ["true", "false"]
    if choices := item.metadata["choices"]:
        return list(choices)
    assert item.type in (int, float), f"values of arch.{item.name} need a line in SEMANTIC"
    high = item.metadata["high"]
    return [str(default_of(item)), str(default_of(item) + 1 if high is None else high)]


INITIAL = {"scale", "gate", "keys_as_queries"}
"""Options that say how weights start; the others must make a difference with the same weights too."""


@pytest.mark.hard
def test_9_every_option_changes_the_output(arch: str, text: Text) -> None:
    for option, item in options_of(arch).items():
        if item.metadata["effect"] != "result":
            continue
        outputs: list[torch.Tensor] = []
        weights: dict[str, torch.Tensor] = {}
        for value in values_of(item):
            case = build(arch, *f"arch.{option}={value}".split())
            own = case.model.state_dict()
            shared = {key: weight for key, weight in weights.items() if key in own and own[key].shape == weight.shape}
            if option not in INITIAL:
                case.model.load_state_dict(shared, strict=False)
            weights = weights or own
            torch.manual_seed(3)
            outputs.append(everything(case.model.train(), text))
        for i, one in enumerate(outputs):
            for other in outputs[i + 1 :]:
                assert not torch.allclose(one, other, rtol=1e-3, atol=1e-4), option


BESIDE = {"stored_on": ["arch.search=exact"]}
"""What an option of speed asks of the others."""


def test_9_options_of_speed_change_no_output(arch: str, text: Text) -> None:
    for option, item in options_of(arch).items():
        if item.metadata["effect"] != "speed":
            continue
        cases = [build(arch, f"arch.{option}={value}", *BESIDE.get(option, [])) for value in values_of(item)]
        first, *others = (everything(case.model, text) for case in cases)
        for other in others:
            torch.testing.assert_close(other, first, **CLOSE)


def everything(model: SegmentModel, text: Text) -> torch.Tensor:
    """The last segment's hidden states and all auxiliary losses, as one row of numbers."""
    state, aux = model.init_state(3), torch.zeros(1)
    for tokens, valid, reset in zip(*text, strict=True):
        output = model(tokens, valid, state, reset)
        state, aux = output.state, aux + sum(output.aux.values())
    return torch.cat([output.hidden_BTD.flatten(), aux]).detach()


def test_9_memory_size_changes_the_output(arch: str, text: Text) -> None:
    if not ARCHS[arch].mem_unit:
        return
    most = ARCHS[arch].most_mem
    sizes = (8, 24) if most is None else (0, most)
    small, large = (build(arch, f"mem={mem}", *few(arch)) for mem in sizes)
    assert not torch.allclose(run(small.model, text)[0][-1], run(large.model, text)[0][-1])


def few(arch: str) -> list[str]:
    return ["arch.neighbours=4"] if bounded_by_mem(arch) else []


# 10. Auxiliary losses and gauges


def test_10_aux_and_gauges_are_scalars(case: Case, text: Text) -> None:
    output = case.model(text.tokens[0], text.valid[0], case.model.init_state(3), text.reset[0])
    for value in [*output.aux.values(), *output.gauges.values()]:
        assert value.shape == ()
        assert torch.isfinite(value)
    assert not any(value.requires_grad for value in output.gauges.values())
    assert output.gauges or not case.model.memory_slots


def test_10_gauges_are_means_over_lanes_and_fills_their_maximum(case: Case, text: Text) -> None:
    """So that a score does not depend on how many documents are read side by side."""
    case.model.eval()
    together = gauges_of(case, text)
    alone = [gauges_of(case, Text(*(part[:, lane : lane + 1] for part in text))) for lane in range(3)]
    for name, value in together.items():
        if name.startswith("memory_between"):
            assert not any(name in one for one in alone)
            assert 0 <= value <= 3 / 2
            continue
        lanes = torch.stack([one[name] for one in alone])
        expected = lanes.max() if name.startswith("memory_fill") else lanes.mean()
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)


def test_10_only_fills_are_computed_while_nobody_watches(arch: str, text: Text) -> None:
    unwatched(build(arch), text)


@pytest.mark.hard
def test_10_only_fills_are_computed_while_nobody_watches_with_any_settings(case: Case, text: Text) -> None:
    unwatched(case, text)


def unwatched(case: Case, text: Text) -> None:
    """Without watching there are fewer operations; activations, losses and state do not change."""
    outputs, operations = [], []
    for on in (True, False):
        state = case.model.init_state(3)
        torch.manual_seed(2)
        with watching(on):
            for index in range(2):
                with Operations() as seen:
                    output = case.model(text.tokens[index], text.valid[index], state, text.reset[index])
                state = output.state
        outputs.append(output)
        operations.append(seen.number)
    seen, unseen = outputs
    parts = [[output.hidden_BTD, output.state, output.aux] for output in outputs]
    torch.testing.assert_close(*map(pytree.tree_leaves, parts), rtol=0, atol=0)
    assert unseen.gauges == {name: value for name, value in seen.gauges.items() if name.startswith("memory_fill")}
    assert operations[1] <= operations[0] - 2 * (len(seen.gauges) - len(unseen.gauges))


class Operations(TorchDispatchMode):
    """Counts operations."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def gauges_of(case: Case, text: Text) -> dict[str, torch.Tensor]:
    """Those of the segment before the one in which a document ends."""
    state = case.model.init_state(text.tokens.shape[1])
    for tokens, valid, reset in zip(text.tokens[:4], text.valid[:4], text.reset[:4], strict=True):
        output = case.model(tokens, valid, state, reset)
        state = output.state
    return output.gauges


def test_inspect_finds_what_is_there(case: Case, text: Text) -> None:
    _, state = run(case.model, text)
    found = case.model.inspect(text.tokens[0], text.valid[0], fork(state), torch.zeros(3, dtype=torch.bool))
    assert found.ages_BTLHk.shape == found.weights_BTLHk.shape
    assert found.ages_BTLHk.shape[:2] == (3, SEGMENT)
    pairs = getattr(case.config.arch, "pairs", case.model.memory_slots)
    if pairs == 0 or not case.config.arch.retrieves:
        assert found.ages_BTLHk.numel() == 0
        return
    read = found.weights_BTLHk > 0
    assert read.any()
    place = torch.arange(SEGMENT).view(1, -1, 1, 1, 1)
    assert (found.ages_BTLHk[read] >= 1).all()
    oldest = case.model.memory_slots + case.model.cache_tokens
    assert (found.ages_BTLHk - place <= oldest)[read].all()
    assert (found.ages_BTLHk[~read] == 0).all()
    assert (found.weights_BTLHk.sum((-1,)) <= 1 + 1e-5).all()


def test_dropout_draws_from_the_saved_generator(arch: str, text: Text) -> None:
    case = build(arch, "arch.dropout=0.3")
    saved = random_state(torch.device("cpu"))
    first, _ = run(case.model.train(), text)
    second, _ = run(case.model, text)
    restore_random_state(saved, torch.device("cpu"))
    again, _ = run(case.model, text)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_initial_loss_is_near_chance(arch: str) -> None:
    torch.manual_seed(0)
    model = build_model(configure(f"arch={arch}", "size=small"), vocabulary=1000)
    tokens, targets = torch.randint(1000, (4, 64)), torch.randint(1000, (4, 64))
    state: State = model.init_state(4)
    hidden = model(tokens, torch.ones_like(tokens, dtype=torch.bool), state, torch.ones(4, dtype=torch.bool)).hidden_BTD
    # not counting the token that was read, whose embedding is still in the residual stream and in the tied output layer
    logits = model.head.logits(hidden).scatter(-1, tokens[..., None], float("-inf"))
    others = targets != tokens
    # logits are independent of the targets and of unit variance: a half more than a uniform guess costs
    expected = math.log(999) + 0.5
    assert F.cross_entropy(logits[others], targets[others]).item() == pytest.approx(expected, abs=0.2)


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(case: Case, text: Text) -> None:
    with_faiss = getattr(case.config.arch, "search", "") == "faiss_flat"
    if with_faiss and not hasattr(pytest.importorskip("faiss"), "StandardGpuResources"):
        pytest.skip("this faiss is for CPUs")
    expected, _ = run(case.model, text)
    case.model.cuda()
    on_gpu = Text(*(part.cuda() for part in text))
    found, _ = run(case.model, on_gpu)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_half_precision_stays_near_full(case: Case, text: Text) -> None:
    """bf16 autocast over all segments: the same nats to the 8 bits that bf16 has, and state keeps its types."""
    hidden, _ = run(case.model, text)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, state = run(case.model, text)
    nats = [case.model.head.nats(x.flatten(0, 1), text.tokens.flatten(0, 1)).mean() for x in (hidden, rounded)]
    # rounding changes which pairs are retrieved, so there it may move more
    retrieves = hasattr(case.config.arch, "neighbours") and case.model.memory_slots
    assert abs(nats[0] - nats[1]) < (0.1 if retrieves else 0.02) * nats[0]
    types, before = ([leaf.dtype for leaf in pytree.tree_leaves(tree)] for tree in (state, case.model.init_state(3)))
    assert types == before


@pytest.mark.parametrize("pieces", [[1] * SEGMENT, [3, 1, 4]])
def test_a_segment_in_pieces_is_the_segment(placed: Case, text: Text, pieces: list[int]) -> None:
    """`extend` gives for the parts of a segment what `step` gives for it, and leaves the state as it was."""
    _, state = run(placed.model, Text(*(part[:7] for part in text)))  # lane 1 is in its second document
    stride = placed.model.stride
    before = [leaf.clone() for leaf in pytree.tree_leaves(state)]
    tokens = text.tokens[7][:, :stride]
    kept, hidden = None, []
    for piece in tokens.split([min(part, stride) for part in pieces] if stride == SEGMENT else 1, dim=1):
        extension = placed.model.extend(piece, state, kept)
        kept = extension.kept
        hidden.append(extension.hidden_BTD)
    assert all(torch.equal(leaf, old) for leaf, old in zip(pytree.tree_leaves(state), before, strict=True))
    expected = placed.model.step(tokens, torch.ones_like(tokens, dtype=torch.bool), state).hidden_BTD
    torch.testing.assert_close(torch.cat(hidden, dim=1), expected, **CLOSE)

"""The losses that train a memory, against plain loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from memexp.config.arch.slot_memory import ThoughtArch
from memexp.model.slot_memory.gauges import effective_rank
from memexp.model.slot_memory.recall import (
    PublishedQueries,
    composition,
    even_cuts,
    published_separation,
    random_cuts,
    separation,
)
from memexp.model.slot_memory.updater import AdditiveUpdater, GatedUpdater, Updater, Written
from memexp.model.transformer.decoder import DecoderLayers
from memexp.model.transformer.kept import Kept

from ..small import randomise
from .slots import LANES, LENGTH, OPTIONS, SHAPE, SLOTS, memory_and_states


def test_published_queries_differ_by_their_distances_alone() -> None:
    queries = PublishedQueries(SHAPE)
    asked = queries(LANES, LENGTH)
    assert torch.equal(asked[:, 1], asked[:, 8])
    assert not torch.equal(asked[:, 0], asked[:, 1])
    bias = queries.bias(SLOTS + LENGTH)
    assert bias[0, 1, SLOTS + 8, 0] == -(2**-8) * (SLOTS + 8)
    assert bias[0, 0, SLOTS + 2, SLOTS + 5] == -(2**-4) * 3
    assert bias[0, 0, 0, SLOTS] == -(2**-4) * SLOTS


def test_published_queries_are_read_as_one_sequence_in_which_everything_sees_everything() -> None:
    """Slots too see the queries: a plain loop over the layers, with every score and without a mask."""
    torch.manual_seed(0)
    arch = ThoughtArch(position="t5", normalise=True)
    layers = DecoderLayers(SHAPE, [arch] * SHAPE.layers, two_sided=False, shared_values=False).double()
    queries, memory = PublishedQueries(SHAPE).double(), torch.randn(LANES, SLOTS, SHAPE.width, dtype=torch.float64)
    bias = queries.bias(SLOTS + LENGTH).double()
    x = torch.cat([memory, queries(LANES, LENGTH)], dim=1)
    for layer in layers:
        heads = layer.attention.project(layer.attention_norm(x), None)
        weights = (heads.queries_BHTK @ heads.keys_BGTK.mT + bias).softmax(-1)
        x = layer.finish(x, weights @ heads.values_BGTK)
    torch.testing.assert_close(queries.read(layers, memory, LENGTH), x[:, SLOTS:])


# Composition


class Sum(Updater):
    """Every token adds a vector of its own to every slot, so reading in pieces is reading at once."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.factor = nn.Parameter(torch.ones(()))

    def write(self, memory_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, *, start: int) -> Written:
        mask_BT1 = mask_B11T[:, 0, 0, :, None]
        return Written(memory_BMD + self.factor * (text_BTD.tanh() * mask_BT1).sum(1, keepdim=True), {})

    def kept(self, kept: Kept, slots: int, length: int) -> float:
        raise NotImplementedError


class Watching(Sum):
    """Notes whether cuDNN may compute attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def write(self, memory_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, *, start: int) -> Written:
        self.seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return super().write(memory_BMD, text_BTD, mask_B11T, start=start)


def test_pieces_of_random_lengths_are_read_without_cudnn() -> None:
    """Which would prepare each length; the whole has always the same."""
    updater = Watching()
    memory, states, valid = memory_and_states()
    composition(updater.double(), memory, states, valid, [1, 4])
    assert updater.seen == [True, False, False, False]
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_composition_of_what_composes_is_exact() -> None:
    memory, states, valid = memory_and_states()
    valid[1, 5:] = False
    composed = composition(Sum().double(), memory, states, valid, [2, 3, 7])
    assert composed.error < 1e-24
    assert composed.gauges["composition_error"] < 1e-24
    torch.testing.assert_close(composed.whole_BMD, memory + (states.tanh() * valid[..., None]).sum(1, keepdim=True))


@pytest.mark.parametrize("gated", [True, False])
def test_composition_is_the_plain_loop(gated: bool) -> None:
    updater = randomise(
        GatedUpdater(SHAPE, OPTIONS, mem=SLOTS, layers=1) if gated else AdditiveUpdater(SHAPE, OPTIONS, layers=1)
    )
    memory, states, valid = memory_and_states()
    composed = composition(updater, memory, states, valid, [1, 6])
    once = updater(memory, states, valid).memory_BMD
    pieces = memory
    for start, stop in ((0, 1), (1, 6), (6, LENGTH)):
        pieces = updater(pieces, states[:, start:stop], valid[:, start:stop], start=start).memory_BMD
    errors, changes = (
        [
            sum((a - b) ** 2 for a, b in zip(*pair, strict=True))
            for pair in zip(each.flatten(1).tolist(), once.flatten(1).tolist(), strict=True)
        ]
        for each in (pieces, memory)
    )
    assert composed.error.item() == pytest.approx(sum(errors) / memory.numel())
    relative = [error / change for error, change in zip(errors, changes, strict=True)]
    assert composed.gauges["composition_error"].item() == pytest.approx(sum(relative) / LANES)
    assert composed.error.requires_grad
    assert not composed.whole_BMD.requires_grad
    # a gated updater is told where a piece begins, the published one never knew
    moved = updater(memory, states, valid, start=3).memory_BMD
    assert torch.allclose(moved, once) != gated


def test_the_target_of_composition_has_no_dropout() -> None:
    updater = randomise(GatedUpdater(SHAPE, replace(OPTIONS, dropout=0.5), mem=SLOTS, layers=1)).train()
    memory, states, valid = memory_and_states()
    wholes = [composition(updater, memory, states, valid, [4]) for _ in range(2)]
    assert torch.equal(wholes[0].whole_BMD, wholes[1].whole_BMD)
    assert not torch.allclose(wholes[0].pieces_BMD, wholes[1].pieces_BMD)
    assert all(module.training for module in updater.modules())


def test_cuts_leave_no_piece_empty() -> None:
    torch.manual_seed(0)
    for length in (1, 2, 3, 9, 64):
        drawn = [random_cuts(length) for _ in range(300)]
        assert all(cuts == sorted(set(cuts)) and set(cuts) <= set(range(1, length)) for cuts in drawn)
        counts = {len(cuts) + 1 for cuts in drawn}
        assert counts == set(range(min(2, length), min(8, length) + 1))
        assert even_cuts(length) == sorted(set(even_cuts(length)))
        assert set(even_cuts(length)) <= set(range(1, length))
    assert {cut for _ in range(300) for cut in random_cuts(9)} == set(range(1, 9))
    assert even_cuts(64) == [16, 32, 48]


# Separation


def test_separation_is_vicreg() -> None:
    """Three lanes of two slots of three numbers, one lane without a token, against sums by hand."""
    slots = torch.tensor(
        [[[1.0, 0.0, 2.0], [3.0, 1.0, 2.5]], [[9.0, 9.0, 9.0], [8.0, 7.0, 6.0]], [[2.0, 0.5, 2.0], [6.0, -0.5, 2.5]]]
    )
    found = separation(slots, torch.tensor([True, False, True]))
    columns = [[1.0, 3.0, 2.0, 6.0], [0.0, 1.0, 0.5, -0.5], [2.0, 2.5, 2.0, 2.5]]
    centred = [[value - sum(column) / 4 for value in column] for column in columns]
    products = [[sum(a * b for a, b in zip(one, two, strict=True)) / 3 for two in centred] for one in centred]
    hinge = [max(0.0, 1 - math.sqrt(products[j][j] + 1e-4)) for j in range(3)]
    off = sum(products[i][j] ** 2 for i in range(3) for j in range(3) if i != j)
    assert hinge[0] == 0
    assert hinge[1] > 0
    assert found["variance"].item() == pytest.approx(sum(hinge) / 3)
    assert found["covariance"].item() == pytest.approx(off / 3)
    nothing = separation(slots, torch.zeros(3, dtype=torch.bool))
    assert nothing.keys() == found.keys()
    assert all(torch.isfinite(value) for value in nothing.values())


def test_published_separation_is_the_code_s_formula() -> None:
    rows = torch.tensor([[1.0, 0.0, 2.0], [3.0, 9.0, 2.5], [2.0, 0.5, 2.0], [6.0, -0.5, 2.5]])
    columns = rows.T.tolist()
    centred = [[value - sum(column) / 4 for value in column] for column in columns]
    products = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in centred] for one in centred]
    hinge = [max(0.0, 4 - math.sqrt(products[j][j] / 3 + 1e-5)) for j in range(3)]
    triangle = sum((products[i][j] / 4) ** 2 for i in range(3) for j in range(i, 3))
    found = published_separation(rows, torch.ones(4, dtype=torch.bool))
    assert found["variance"].item() == pytest.approx(sum(hinge) / 3)
    assert found["covariance"].item() == pytest.approx(triangle / 3)
    others = torch.cat([rows[:1], torch.full((2, 3), 50.0), rows[1:]])
    counted = published_separation(others, torch.tensor([True, False, False, True, True, True]))
    assert {name: value.item() for name, value in counted.items()} == pytest.approx(
        {name: value.item() for name, value in found.items()}
    )
    nothing = published_separation(others, torch.zeros(6, dtype=torch.bool))
    assert all(torch.isfinite(value) for value in nothing.values())


@pytest.mark.hard
def test_slots_stay_apart_with_separation_and_collapse_without() -> None:
    """Composition alone is content with a memory that forgets what it was: the slots it ends in grow alike."""
    ranks = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        updater = GatedUpdater(SHAPE, OPTIONS, mem=SLOTS, layers=1)
        optimizer = torch.optim.Adam(updater.parameters(), lr=2e-2)
        initial = memory = torch.randn(SLOTS, SHAPE.width).expand(8, -1, -1)
        for _ in range(40):
            states, valid = torch.randn(8, LENGTH, SHAPE.width), torch.ones(8, LENGTH, dtype=torch.bool)
            after = updater(memory, states, valid).memory_BMD
            apart = separation(after, valid[:, 0])
            loss = composition(updater, memory, states, valid, random_cuts(LENGTH)).error
            optimizer.zero_grad()
            (loss + weight * (apart["variance"] + 0.04 * apart["covariance"])).backward()
            optimizer.step()
            memory = after.detach()
        ranks[weight] = effective_rank(memory) - effective_rank(initial)
    assert ranks[0.0] < -0.3
    assert ranks[1.0] > 0

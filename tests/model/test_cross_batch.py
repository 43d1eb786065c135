"""kNN memory that is trained with negatives: the last segments of other lanes, in one softmax with what is local."""

import pytest
import torch
from torch import Tensor

from memexp.model.knn import Knn
from memexp.model.knn_memory import cross_batch
from memexp.model.segment import SegmentModel

from .make import make
from .small import COMMON, gain, randomise, shape, t5_bucket, unit

SEGMENT, LANES = 6, 3


def knn(*, negatives: int, layers: int = 1, **options: object) -> SegmentModel:
    merged = {
        **COMMON, "position": "t5", "cache": 0, "combine": "joint", "knn_layers": [layers], "neighbours": SEGMENT, **options,
    }  # fmt: skip
    return randomise(make(Knn, shape(segment=SEGMENT, layers=layers), mem=SEGMENT, negatives=negatives, **merged))  # type: ignore[arg-type]


def text() -> Tensor:
    torch.manual_seed(9)
    return torch.randint(30, (LANES, 4 * SEGMENT))


def through(model: SegmentModel, tokens: Tensor, *, alone: Tensor | None = None) -> Tensor:
    """Hidden states; the documents of the lanes in `alone` begin again in each segment."""
    state, hidden = model.init_state(LANES), []
    for index, part in enumerate(tokens.split(SEGMENT, dim=1)):
        reset = torch.ones(LANES, dtype=torch.bool) if index == 0 else torch.zeros(LANES, dtype=torch.bool)
        if alone is not None:
            reset = reset | alone
        output = model(part, torch.ones_like(part, dtype=torch.bool), state, reset)
        state = output.state
        hidden.append(output.hidden_BTD)
    return torch.cat(hidden, dim=1)


@pytest.mark.parametrize("negatives", [1, 2])
def test_it_is_one_softmax_written_out(negatives: int) -> None:
    """Query by query, in a model of one layer without a cache; keys of other segments have no position."""
    model, tokens = knn(negatives=negatives), text()
    own = dict(model.named_parameters())
    layer = {key.removeprefix("layers.0."): value for key, value in own.items()}
    x = own["head.embedding_VD"][tokens]
    y = gain(x, layer["attention_norm.weight"])
    queries, values = (y @ layer["attention.queries_values.weight"].T).split(16, dim=-1)
    keys, heads = y @ layer["attention.keys.weight"].T, []
    for head in range(2):
        here, scale = slice(8 * head, 8 * head + 8), layer["attention.scale_H"][head].abs()
        k, v, q = unit(keys[..., here]), values[..., here], unit(queries[..., here]) * scale
        lanes = []
        for lane in range(LANES):
            rows = []
            for i in range(4 * SEGMENT):
                start = i // SEGMENT * SEGMENT
                last = slice(max(0, start - SEGMENT), start)
                seen = [
                    (lane, j, layer["attention.position.bias_HR"][head, t5_bucket(i - j)]) for j in range(start, i + 1)
                ]
                others = [lane, *((lane + shift) % LANES for shift in range(1, negatives + 1))]
                seen += [(other, j, torch.zeros(()).double()) for other in others for j in range(4 * SEGMENT)[last]]
                scores = torch.stack([q[lane, i] @ k[other, j] + bias for other, j, bias in seen])
                rows.append(scores.softmax(0) @ torch.stack([v[other, j] for other, j, _ in seen]))
            lanes.append(torch.stack(rows))
        heads.append(torch.stack(lanes))
    x = x + torch.cat(heads, -1) @ layer["attention.output.weight"].T
    y = gain(x, layer["feedforward_norm.weight"])
    x = x + (y @ layer["feedforward.rise.weight"].T).relu() @ layer["feedforward.fall.weight"].T
    torch.testing.assert_close(through(model, tokens), x)


def test_without_other_documents_it_is_the_memory_of_one_segment_in_a_joint_softmax() -> None:
    """Lanes whose documents are one segment long have no last segment, so they are no negatives."""
    model, plain, tokens = knn(negatives=2, layers=2), knn(negatives=0, layers=2), text()
    plain.load_state_dict(model.state_dict())
    alone = torch.tensor([False, True, True])
    torch.testing.assert_close(through(model, tokens, alone=alone)[0], through(plain, tokens, alone=alone)[0])
    assert not torch.allclose(through(model, tokens)[0], through(plain, tokens)[0])


def test_evaluation_reads_the_memory_and_no_other_lane() -> None:
    model, plain, tokens = knn(negatives=2, layers=2), knn(negatives=0, layers=2), text()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(through(model.eval(), tokens), through(plain.eval(), tokens))


def test_gradients_reach_the_last_segment_of_other_lanes_and_no_earlier_one() -> None:
    model, tokens = knn(negatives=1), torch.arange(LANES * 3 * SEGMENT).view(LANES, 3 * SEGMENT) % 30
    rows: list[Tensor] = []
    model.head.embed = lambda part: rows.append(embed(part).requires_grad_()) or rows[-1]  # type: ignore[method-assign,func-returns-value]
    embed = lambda part: model.head.embedding_VD.detach()[part]  # noqa: E731
    hidden = through(model, tokens)
    gradients = torch.autograd.grad(hidden[0, 2 * SEGMENT :].square().sum(), rows)
    reached = [[bool(gradient[lane].any()) for gradient in gradients] for lane in range(LANES)]
    assert reached == [[False, True, True], [False, True, False], [False, False, False]]


def test_padding_of_another_lane_is_not_seen() -> None:
    model, tokens = knn(negatives=1), text()

    def last(padding: int) -> Tensor:
        state = model.init_state(LANES)
        for index, part in enumerate(tokens[:, : 2 * SEGMENT].split(SEGMENT, dim=1)):
            valid = torch.ones_like(part, dtype=torch.bool)
            if index == 0:
                valid[1, 3:], part[1, 3:] = False, padding
            output = model(part, valid, state, torch.full((LANES,), index == 0))
            state = output.state
        return output.hidden_BTD

    assert torch.equal(last(3)[0], last(7)[0])


def test_a_shorter_segment_leaves_the_last_tokens_of_both() -> None:
    model, tokens = knn(negatives=1), text()
    state = model.init_state(LANES)
    for start, stop in ((0, 6), (6, 10)):
        part = tokens[:, start:stop]
        state = model(part, torch.ones_like(part, dtype=torch.bool), state, torch.full((LANES,), start == 0)).state
    one = model.init_state(LANES)
    whole = model(
        tokens[:, 4:10], torch.ones(LANES, 6, dtype=torch.bool), one, torch.ones(LANES, dtype=torch.bool)
    ).state
    torch.testing.assert_close(tuple(state.memory[0].recent), tuple(whole.memory[0].recent))
    assert isinstance(state.memory[0], cross_batch.RingAndRecent)


def test_the_share_of_negatives_is_a_gauge() -> None:
    model, tokens = knn(negatives=2), text()
    state = model.init_state(LANES)
    for index in range(2):
        part = tokens[:, index * SEGMENT : (index + 1) * SEGMENT]
        output = model(part, torch.ones_like(part, dtype=torch.bool), state, torch.full((LANES,), index == 0))
        state = output.state
    assert 0 < output.gauges["negative_share"] < 1
    assert 0 < output.gauges["memory_share"] < 1 - output.gauges["negative_share"]

"""One optimizer step: what is summed, what it is divided by, and how far back gradients reach."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus, TokenDocument
from memexp.data.lanes import TrainingLanes
from memexp.model.build import build_model
from memexp.model.segment import Extension, SegmentModel, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.head import Head
from memexp.model.transformer.shape import Shape
from memexp.store.folder import Run
from memexp.train.batch import to_device
from memexp.train.loader import Reader
from memexp.train.loop import update
from memexp.train.optimizer import build_schedule
from memexp.train.session import Session
from memexp.train.spec import RunSpec

from ..tiny import configure
from .conftest import Train

VOCABULARY, SEGMENT = 30, 8


def documents(*lengths: int) -> list[TokenDocument]:
    generator = np.random.default_rng(0)
    return [
        TokenDocument(str(length), generator.integers(VOCABULARY, size=length).astype(np.uint16), length)
        for length in lengths
    ]


def lanes(config: TrainConfig, texts: list[TokenDocument]) -> TrainingLanes:
    return TrainingLanes(texts, lanes=config.lanes, segment=config.segment, seed=config.seed, max_document=0)


def open_session(
    config: TrainConfig,
    model: SegmentModel,
    texts: list[TokenDocument],
    tmp_path: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> Session:
    """A session on these documents; without an optimizer of its own, weights stay as they are."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.0)
    return Session(
        spec=RunSpec(Run(tmp_path), config, cast(Corpus, SimpleNamespace()), {"hash": ""}, tmp_path),
        device=torch.device("cpu"),
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.optim, steps=config.steps),
        lanes=Reader(lanes(config, texts), segments=config.accumulate, device=torch.device("cpu")),
        state=model.init_state(config.lanes),
    )


@pytest.mark.parametrize("arch", ["vanilla", "xl", "knn"])
def test_an_accumulated_gradient_is_that_of_the_sum_over_scored_tokens(arch: str, tmp_path: Any) -> None:
    config = configure(
        f"arch={arch}", f"segment={SEGMENT}", "lanes=3", "accumulate=4", "optim.clip=0", "arch.scale=4", "seed=3"
    )
    texts = documents(5, 12, 20, 37, 41)  # with padding and resets within the four segments
    torch.manual_seed(0)
    session = open_session(config, build_model(config, vocabulary=VOCABULARY), texts, tmp_path)
    torch.manual_seed(0)
    model = build_model(config, vocabulary=VOCABULARY)

    reader, state, total, scored = lanes(config, texts), model.init_state(3), torch.zeros(()), 0
    for _ in range(4):
        batch = next(reader)
        tokens, targets = torch.from_numpy(batch.tokens_BT), torch.from_numpy(batch.targets_BT)
        reset, valid = torch.from_numpy(batch.reset_B), torch.from_numpy(batch.valid_BT)
        output = model(tokens, valid, state, reset)
        state = output.state
        log_probabilities = model.head.logits(output.hidden_BTD).log_softmax(-1)
        for lane, place in zip(*batch.weight_BT.nonzero(), strict=True):
            total = total - log_probabilities[lane, place, targets[lane, place]]
            scored += 1
    assert scored < 4 * 3 * SEGMENT  # some of it is padding
    (total / scored).backward()

    result = update(session)
    assert result.loss == pytest.approx((total / scored).item(), rel=1e-5)
    assert session.tokens == scored
    assert session.step == 1
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-4)
    for (name, found), expected in zip(session.model.named_parameters(), model.parameters(), strict=True):
        assert found.grad is not None, name
        assert expected.grad is not None, name
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_gauges_are_computed_in_logged_steps_alone(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = Session.read, []

    def noted(self: Session, *given: Any, watch: bool = True) -> Any:
        seen.append(watch)
        return read(self, *given, watch=watch)

    monkeypatch.setattr(Session, "read", noted)
    done = run("arch=rmt", "steps=7", "log_every=3", "accumulate=1", "bptt_segments=0")
    assert seen == [False, False, True, False, False, True, True]
    assert [line["step"] for line in done.metrics] == [3, 6, 7]
    names = {"memory_share", "memory_norm", "memory_change", "memory_rank", "memory_between"}
    assert all(set(line["gauges"]) == names for line in done.metrics)


def test_gradients_are_clipped_to_the_norm(tmp_path: Any) -> None:
    config = configure(f"segment={SEGMENT}", "optim.clip=0.01")
    session = open_session(config, build_model(config, vocabulary=VOCABULARY), documents(100, 100), tmp_path)
    assert update(session).grad_norm > 0.01
    norm = torch.stack([p.grad.norm() for p in session.model.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


SHAPE = Shape(vocabulary=VOCABULARY, layers=1, width=1, heads=1, head_size=1, feedforward=1, segment=SEGMENT)


class CountingHead(Head):
    """Gives every target 1 nat times what the model let through, in one chosen segment, counted from 0."""

    def __init__(self, segment: int) -> None:
        super().__init__(VOCABULARY, 4)
        self.chosen, self.seen = segment, 0

    def nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        counts = self.seen == self.chosen
        self.seen += 1
        return hidden_BTD.sum(-1) * float(counts) + 0 * self.embedding_VD.sum()


@final
class Recurrent(SegmentModel):
    """What a lane carries is a sum over all segments, without any detaching; each segment enters through a probe."""

    def __init__(self, chosen: int, *, aux: float = 0.0) -> None:
        super().__init__(SHAPE, cache=0, memory=0)
        self.head = CountingHead(chosen)
        self.aux = nn.Parameter(torch.tensor(aux))
        self.probes: list[Tensor] = []

    def init_state(self, lanes: int) -> State:
        return State(cache=(), memory=(torch.zeros(lanes),))

    def clear(self, state: State, reset_B: Tensor) -> State:
        return State((), (state.memory[0].masked_fill(reset_B, 0),))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        probe = torch.ones((), requires_grad=True)
        self.probes.append(probe)
        carried_B = state.memory[0] + probe
        hidden_BTD = carried_B[:, None, None].expand(*tokens_BT.shape, 4)
        return SegmentOutput(hidden_BTD, State((), (carried_B,)), {"pull": self.aux**2}, {})

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        raise NotImplementedError("nothing is generated here")


@pytest.mark.parametrize("bptt_segments", [0, 1, 2, 5])
def test_a_gradient_reaches_back_to_the_start_of_its_window(bptt_segments: int, tmp_path: Any) -> None:
    config = replace(configure(f"segment={SEGMENT}", "accumulate=6", "optim.clip=0"), bptt_segments=bptt_segments)
    window = bptt_segments + 1
    for chosen in range(6, 12):  # of the second step, so that the border between steps is among those seen
        model = Recurrent(chosen)
        session = open_session(config, model, documents(1000, 1000), tmp_path)
        update(session)
        update(session)
        reached = [probe.grad is not None and probe.grad.item() != 0 for probe in model.probes]
        expected = [index <= chosen and index // window == chosen // window for index in range(12)]
        assert reached == expected, chosen


@pytest.mark.parametrize("bptt_segments", [0, 1, 2, 5])
def test_tokens_a_step_do_not_depend_on_the_horizon(bptt_segments: int, tmp_path: Any) -> None:
    config = replace(configure(f"segment={SEGMENT}", "accumulate=6"), bptt_segments=bptt_segments)
    session = open_session(config, Recurrent(0), documents(1000, 1000), tmp_path)
    update(session)
    assert session.tokens == 6 * config.lanes * SEGMENT


def test_auxiliary_losses_are_averaged_over_segments_and_kept_apart(tmp_path: Any) -> None:
    config = replace(configure(f"segment={SEGMENT}", "accumulate=4", "optim.clip=0"), bptt_segments=1)
    model = Recurrent(chosen=-1, aux=3.0)
    result = update(open_session(config, model, documents(1000, 1000), tmp_path))
    assert result.loss == 0.0
    assert result.aux == {"pull": pytest.approx(9.0)}
    assert model.aux.grad is not None
    assert model.aux.grad.item() == pytest.approx(6.0)


def test_memory_fill_is_the_largest_of_all_segments(tmp_path: Any) -> None:
    config = configure("arch=knn", f"segment={SEGMENT}", "lanes=1", "accumulate=5", "mem=64")
    # 33 tokens are 4 segments: the fifth, which begins the document again, reads an empty memory
    session = open_session(config, build_model(config, vocabulary=VOCABULARY), documents(33), tmp_path)
    update(session)
    assert session.memory_fill == 3 * SEGMENT / 64


@pytest.mark.parametrize(
    "arch",
    [
        "rmt mem=3 arch.past_memories=2", "rmt_xl mem=3", "knn mem=20 arch.neighbours=4", "delta mem=3 arch.window=5",
        *(pytest.param(each, marks=pytest.mark.hard) for each in ("infini", "armt mem=3", "thought mem=3", "titans mem=3")),
        "knn mem=20 arch.neighbours=4 arch.combine=joint arch.negatives=2 bptt_segments=1", "knn_routed mem=20 arch.neighbours=4",
        "block mem=3 arch.window=4 arch.state_dropout=0.3 arch.cache_dropout=0.3", "compressive mem=6", "xl_enhanced mem=5",
        "block_knn mem=3 arch.window=4 arch.pairs=20 arch.neighbours=4 arch.write=leaving",
    ],
)  # fmt: skip
def test_segments_computed_again_give_the_same_gradients(arch: str, tmp_path: Any) -> None:
    """Dropout is on and rings wrap, so a second computation that drew or read anything else would show."""
    gradients, states = [], []
    for recompute in ("false", "true"):
        config = configure(
            *f"arch={arch}".split(), f"segment={SEGMENT}", "lanes=3", "accumulate=4", "arch.dropout=0.2", "arch.scale=4",
            f"recompute={recompute}",
        )  # fmt: skip
        torch.manual_seed(0)
        session = open_session(config, build_model(config, vocabulary=VOCABULARY), documents(100, 70, 50, 90), tmp_path)
        torch.manual_seed(1)
        for _ in range(3):
            update(session)
        gradients.append({name: p.grad for name, p in session.model.named_parameters() if p.grad is not None})
        states.append(pytree.tree_leaves(session.state))
    assert gradients[0].keys() == gradients[1].keys()
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=1e-5, atol=1e-8, msg=name)
    assert all(torch.equal(plain, again) for plain, again in zip(*states, strict=True))


def test_the_gradient_into_memory_writing_is_a_gauge(tmp_path: Any) -> None:
    """Against the gradient with respect to the states themselves, taken apart from the trainer."""
    config = configure("arch=rmt", "mem=3", f"segment={SEGMENT}", "lanes=3", "accumulate=3", "arch.scale=4")
    torch.manual_seed(0)
    session = open_session(config, build_model(config, vocabulary=VOCABULARY), documents(100, 70, 50, 90), tmp_path)
    reader, model = lanes(config, documents(100, 70, 50, 90)), build_model(config, vocabulary=VOCABULARY)
    model.load_state_dict(session.model.state_dict())
    state, written, total = model.init_state(3), [], torch.zeros(())
    for _ in range(3):
        batch = to_device(next(reader), torch.device("cpu"))
        output = model(batch.tokens_BT, batch.valid_BT, state, batch.reset_B)
        state = output.state
        written.append(state.memory)
        total = total + (model.head.nats(output.hidden_BTD, batch.targets_BT) * batch.weight_BT).sum() / (9 * SEGMENT)
    squares = [gradient.square().sum() for gradient in torch.autograd.grad(total, written[:-1])]
    expected = torch.stack(squares).sum().sqrt()
    assert update(session).gauges["memory_grad"].item() == pytest.approx(expected.item(), rel=1e-4)
    alone = replace(config, bptt_segments=0)
    session = open_session(alone, build_model(alone, vocabulary=VOCABULARY), documents(100, 70, 50, 90), tmp_path)
    assert update(session).gauges["memory_grad"] == 0


def test_gauges_come_to_the_host_together(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one after another: on a GPU the host would wait for each."""
    alone = []

    def number(tensor: Tensor) -> float:
        alone.append(tensor)
        return float(tensor.item())

    monkeypatch.setattr(Tensor, "__float__", number)
    metrics = (run("arch=knn", "steps=2", "log_every=1").path / "metrics.jsonl").read_text().splitlines()
    assert len(json.loads(metrics[0])["gauges"]) > 2
    assert not alone

"""The work that is watched on a CUDA device that is not there. These functions run in a process of their own."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.config.train import TrainConfig
from memexp.cost import memory as plan
from memexp.cost import sharing
from memexp.data.corpus import Corpus, TokenDocument
from memexp.eval.generate import Sampling, generate
from memexp.eval.room import room
from memexp.eval.score import score_documents
from memexp.model.build import build_model
from memexp.model.knn_memory.ring import Ring
from memexp.model.slot_memory import recall
from memexp.model.state import detach, state_bytes
from memexp.model.transformer.numerics import Arithmetic
from memexp.store.folder import Run
from memexp.train import checkpoint, session
from memexp.train.loop import update
from memexp.train.spec import RunSpec

from ..counting import Seen, Watch
from ..tiny import configure
from .device import a_gpu, one_of

VOCABULARY = 40


class Walk(NamedTuple):
    """What was seen of each thing that a run does."""

    step: Seen
    """The first optimizer step."""
    save: Seen
    resume: Seen
    score: Seen
    """Of scoring with every memory but the document's own, if it is inspected instead."""
    strides: int
    """That each scoring reads."""
    inspect: Seen
    generate: Seen
    same_form: bool
    """Whether the state has the shapes, types and devices that it had before the step, also after the resume."""
    state_on: set[str]
    """Devices of the optimizer's state."""
    gauges_on: set[str]
    """Devices of the gauges."""


def on_gpu(*overrides: str) -> TrainConfig:
    """The settings with these overrides, at tiny size if no other is named."""
    return configure("device=cuda", *overrides)


def documents(vocabulary: int, *lengths: int) -> list[TokenDocument]:
    generator = np.random.default_rng(0)
    texts = (generator.integers(vocabulary, size=length).astype(np.uint16) for length in lengths)
    return [TokenDocument(str(len(text)), text, len(text)) for text in texts]


class _Corpus:
    """What a session reads of a corpus."""

    classes = ()

    def __init__(self, vocabulary: int, texts: list[TokenDocument]) -> None:
        self.vocabulary, self._texts = vocabulary, texts

    def split(self, name: str) -> list[TokenDocument]:
        return self._texts


def spec_of(config: TrainConfig, folder: Path, *, vocabulary: int, long: int) -> RunSpec:
    """A run on documents that end at different times."""
    lengths = [long, long // 2, 7 + config.segment, long, long + 3]
    corpus = cast(Corpus, _Corpus(vocabulary, documents(vocabulary, *lengths)))
    return RunSpec(Run(folder), config, corpus, {"hash": ""}, folder)


def walk(*overrides: str, triton: bool = True) -> Walk:
    """Train, save, resume, score, inspect and generate."""
    config = on_gpu(*overrides)
    half = config.precision == "bf16"
    with (
        tempfile.TemporaryDirectory() as folder,
        a_gpu(triton=triton) as watch,
        mock.patch.object(recall, "random_cuts", some_cuts),
    ):
        spec = spec_of(config, Path(folder), vocabulary=VOCABULARY, long=config.segment * config.accumulate * 6 + 5)
        opened = session.open_session(spec)
        before = forms(opened.state)
        watch.begin()
        gauges_on = {str(value.device) for value in update(opened).gauges.values()}
        step, same = watch.end(), before == forms(opened.state)
        state_on = {
            str(value.device)
            for state in opened.optimizer.state.values()
            for name, value in state.items()
            if isinstance(value, Tensor) and name != "step"
        }
        content, save = saved(opened, watch)
        del opened
        opened, resume = resumed(spec, content, watch)
        same = same and before == forms(opened.state)
        model = opened.model
        texts = documents(VOCABULARY, config.segment + 3, config.segment)
        watch.begin()
        retrieves = bool(getattr(config.arch, "neighbours", 0) and (config.mem or getattr(config.arch, "pairs", 0)))
        of_others = ("off", "foreign") if model.memory_slots else ()
        for memory in of_others if retrieves else ("on", *of_others):
            score_documents(model, texts, lanes=2, max_document=0, memory=memory, arithmetic=Arithmetic(half))
        score, strides = watch.end(), -(-(len(texts[0].tokens) - 1) // model.stride)
        watch.begin()
        if retrieves:
            score_documents(model, texts, lanes=2, max_document=0, retrieved=3, arithmetic=Arithmetic(half))
        inspect = watch.end()
        watch.begin()
        prompt = np.arange(config.segment - 2) % VOCABULARY
        for _ in generate(model, prompt, tokens=4, lanes=2, sampling=Sampling(), seed=0, arithmetic=Arithmetic(half)):
            pass
        return Walk(step, save, resume, score, strides, inspect, watch.end(), same, state_on, gauges_on)


def open_on_gpu(*overrides: str) -> None:
    """Open a session, and take no step."""
    with tempfile.TemporaryDirectory() as folder, a_gpu():
        config = on_gpu(*overrides)
        session.open_session(spec_of(config, Path(folder), vocabulary=VOCABULARY, long=config.segment * 6))


def some_cuts(length: int) -> list[int]:
    """Pieces of different lengths; a random number has no value here."""
    return [length // 5, length // 2]


def most_cuts(length: int) -> list[int]:
    """As many pieces as there can be."""
    return [length * piece // recall.MOST_PIECES for piece in range(1, recall.MOST_PIECES)]


class Interruption(NamedTuple):
    """What was seen of a training step that is not logged, of saving after it, and of opening the session again."""

    step: Seen
    save: Seen
    resume: Seen
    planned: int
    """The bytes that `memexp plan` says a step needs on the device."""
    rings: int
    """The bytes of the keys in the memories of pairs."""
    slots: int


def interruption(*overrides: str, vocabulary: int, triton: bool = True) -> Interruption:
    """Train two steps, save and open the session again."""
    config = on_gpu(*overrides)
    with tempfile.TemporaryDirectory() as folder, a_gpu(triton=triton) as watch:
        spec = spec_of(config, Path(folder), vocabulary=vocabulary, long=config.segment * config.accumulate * 4 + 5)
        opened = session.open_session(spec)
        update(opened)
        watch.begin()
        update(opened, gauges_wanted=False)
        step = watch.end()
        rings = state_bytes([ring.keys_BHRK for ring in opened.state.memory if isinstance(ring, Ring)])
        content, save = saved(opened, watch)
        del opened
        _, resume = resumed(spec, content, watch)
    return Interruption(step, save, resume, planned(config, vocabulary), rings, config.mem)


class Shared(NamedTuple):
    """What one of several devices does in a step, as `memexp plan` says and as it was seen."""

    planned: int
    """Bytes held."""
    held: int
    planned_to_send: int
    sent: float


def planned_and_done(*overrides: str, vocabulary: int) -> Shared:
    """The second step of a run on as many devices as the settings say, of which only the first is there."""
    config = on_gpu(*overrides)
    with tempfile.TemporaryDirectory() as folder, a_gpu() as watch, one_of(config.devices):
        long = config.segment * config.accumulate * 4 + 5
        opened = session.open_session(spec_of(config, Path(folder), vocabulary=vocabulary, long=long))
        update(opened)
        watch.begin()
        update(opened)
        seen = watch.end()
        with torch.device("meta"):
            model = build_model(config, vocabulary=vocabulary)
    # a sum is half a sum of which each device gets a part, and half gathering
    found = sum(seen.shared.values()) + seen.shared["allreduce_"]
    return Shared(
        planned(config, vocabulary, config.devices),
        seen.peak,
        sharing.sent(model, config, devices=config.devices),
        found * (config.devices - 1) / config.devices,
    )


def opened_with_shared_weights(*overrides: str) -> tuple[set[str], int, int]:
    """Where state and weights are when a session is opened; the most bytes that were held until then, and those of all weights."""
    config = on_gpu(*overrides, "shard_weights=true")
    with tempfile.TemporaryDirectory() as folder, a_gpu() as watch, one_of(config.devices):
        spec = spec_of(config, Path(folder), vocabulary=VOCABULARY, long=config.segment * config.accumulate * 4)
        watch.begin()
        opened = session.open_session(spec)
        parameters = list(opened.model.parameters())
        leaves = [*pytree.tree_leaves(opened.state), *parameters]
        weights = sum(4 * parameter.numel() for parameter in parameters)
        return {str(leaf.device) for leaf in leaves}, watch.end().peak, weights


def planned_and_held_in_validation(*overrides: str, vocabulary: int) -> tuple[int, int]:
    """The bytes that `memexp plan` says a run needs on the device, and those that scoring after a step holds at most."""
    config = on_gpu(*overrides, "validate_every=1")
    with tempfile.TemporaryDirectory() as folder, a_gpu() as watch:
        long = config.segment * config.accumulate * 4 + 5
        opened = session.open_session(spec_of(config, Path(folder), vocabulary=vocabulary, long=long))
        update(opened)
        lanes = config.eval.lanes
        texts = documents(vocabulary, *[count * config.segment + 1 for count in [1] + [2] * (lanes - 1)])
        watch.begin()
        score_documents(opened.model, texts, lanes=lanes, max_document=0, arithmetic=opened.arithmetic)
        return planned(config, vocabulary), watch.end().peak


def planned_and_held(*overrides: str, vocabulary: int) -> tuple[int, int, int]:
    """The bytes that `memexp plan` says a step needs on the device, those that a step after the first holds at most, and those
    that it holds at the end in addition to those at its beginning.
    """
    config = on_gpu(*overrides)
    with (
        tempfile.TemporaryDirectory() as folder,
        a_gpu() as watch,
        mock.patch.object(recall, "random_cuts", most_cuts),
    ):
        long = config.segment * config.accumulate * 4 + 5
        opened = session.open_session(spec_of(config, Path(folder), vocabulary=vocabulary, long=long))
        hold_as_after_a_step(opened)
        watch.begin()
        before = watch.seen.peak
        update(opened)
        seen = watch.end()
    return planned(config, vocabulary), seen.peak, seen.held - before


def hold_as_after_a_step(opened: session.Session) -> None:
    """Hold the gradients, the optimizer's state and the state of the lanes, which a first step would make in several times the time."""
    if opened.halves is not None:
        opened.halves.refresh()
    for group in opened.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    opened.optimizer.step()
    with torch.no_grad():
        output, _ = opened.read(opened.lanes.take().batches[0], opened.state)
    opened.state = detach(output.state)
    opened.lanes.read_ahead()


class Scoring(NamedTuple):
    """What was seen of scoring documents."""

    seen: Seen
    planned: int
    """The bytes that scoring is said to need on the device."""
    state: int
    """Bytes of the state of all lanes."""


def scoring(
    *overrides: str, segments: list[int], memory: str, vocabulary: int = VOCABULARY, retrieved: int = 0
) -> Scoring:
    """Score a document of each of these numbers of segments, all in parallel."""
    config, lanes = on_gpu(*overrides), len(segments)
    half = config.precision == "bf16"
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary)
        needs = room(model, lanes=lanes, half=half, on_gpu=True, foreign=memory == "foreign")
        state = lanes * state_bytes(model.init_state(1))
    with a_gpu() as watch:
        model = build_model(config, vocabulary=vocabulary).to("cuda")
        texts = documents(vocabulary, *[count * model.stride + 1 for count in segments])
        watch.begin()
        score_documents(
            model, texts, lanes=lanes, max_document=0, memory=memory, retrieved=retrieved, arithmetic=Arithmetic(half)
        )
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        return Scoring(watch.end(), needs.here + weights, state)


def planned(config: TrainConfig, vocabulary: int, devices: int = 1) -> int:
    """The bytes that `memexp plan` says a step needs on each device."""
    of_one = replace(config, lanes=config.lanes // devices)
    return plan.total([item for item in plan.items(of_one, vocabulary=vocabulary, devices=devices) if not item.on_host])


def saved(opened: session.Session, watch: Watch) -> tuple[dict[str, Any], Seen]:
    """What is written to a checkpoint, on the host, and what was seen of it."""
    found: list[dict[str, Any]] = []

    def write(path: Path, content: dict[str, Any]) -> None:
        # one tensor after another, as torch.save moves them to the host
        found.append(pytree.tree_map_only(Tensor, lambda tensor: tensor.cpu(), content))

    watch.begin()
    with mock.patch.object(checkpoint, "save", write):
        session.save_session(opened)
        opened.saving.finish()
    return found[0], watch.end()


def resumed(spec: RunSpec, content: dict[str, Any], watch: Watch) -> tuple[session.Session, Seen]:
    """The session that a checkpoint goes on with, and what was seen of opening it."""
    watch.begin()
    with (
        mock.patch.object(checkpoint, "newest", return_value=Path("newest")),
        mock.patch.object(checkpoint, "load", return_value=content),
        mock.patch.object(checkpoint, "restore_random_state"),
    ):
        opened = session.open_session(spec)
    return opened, watch.end()


def forms(tree: Any) -> list[Any]:
    """Shapes, types and devices."""
    return [(tuple(leaf.shape), leaf.dtype, str(leaf.device)) for leaf in pytree.tree_leaves(tree)]

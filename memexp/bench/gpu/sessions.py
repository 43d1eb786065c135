"""Training sessions on random text, which need no corpus and no run folder that stays."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from memexp.bench.gpu.ground import Ground
from memexp.config.compose import compose, typed
from memexp.config.train import TrainConfig
from memexp.cost.fitting import fits
from memexp.cost.table import vocabulary_of
from memexp.data.corpus import Corpus, TokenDocument
from memexp.model.knn_memory.ring import Ring
from memexp.store.folder import Run
from memexp.train.session import Session, open_session
from memexp.train.spec import RunSpec

STEPS = 40
"""Each lane has one document, which is at least this many steps long, so that none ends while something is measured."""


def settings(ground: Ground, *overrides: str) -> TrainConfig:
    """The settings of a run on the device with these overrides."""
    config: TrainConfig = typed(compose("train", [*overrides, f"device={ground.device}"]))
    return config


def text(vocabulary: int, length: int, *, seed: int = 0) -> np.ndarray:
    """Random tokens."""
    return np.random.default_rng(seed).integers(vocabulary, size=length).astype(np.uint16)


class _Corpus:
    """What a session reads of a corpus."""

    classes = ()

    def __init__(self, config: TrainConfig) -> None:
        self.vocabulary = vocabulary_of(config)
        length = config.segment * config.accumulate * STEPS + 1
        texts = (text(self.vocabulary, length, seed=lane) for lane in range(config.lanes))
        self._texts = [TokenDocument(str(lane), tokens, length) for lane, tokens in enumerate(texts)]

    def split(self, name: str) -> list[TokenDocument]:
        return self._texts


@contextmanager
def folder_for(config: TrainConfig) -> Iterator[RunSpec]:
    """A run in a folder that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="memexp-") as name:
        yield RunSpec(Run(Path(name)), config, cast(Corpus, _Corpus(config)), {"hash": ""}, Path(name))


def fill(session: Session) -> None:
    """Fill the memories of pairs with random ones, because searching an empty memory costs nothing."""
    for ring in (part for part in session.state.memory if isinstance(part, Ring)):
        for keys_HRK, values_HRK in zip(ring.keys_BHRK, ring.values_BHRK, strict=True):  # a lane at a time
            keys_HRK.normal_(std=keys_HRK.shape[-1] ** -0.5)
            values_HRK.normal_()
        ring.count_B.fill_(ring.slots)


@contextmanager
def opened(config: TrainConfig) -> Iterator[Session]:
    """A session on random text."""
    with folder_for(config) as spec:
        torch.manual_seed(config.seed)
        yield open_session(spec)


def with_lanes_that_fit(config: TrainConfig, ground: Ground) -> TrainConfig | None:
    """The run with the most lanes, a power of two times fewer than those wanted, that fit into the device; None if none do."""
    lanes = ground.lanes
    while lanes:
        fewer = replace(config, lanes=lanes)
        if fits(fewer, ground.memory):
            return fewer
        lanes //= 2
    return None

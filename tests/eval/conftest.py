"""Untrained models whose weights all matter, documents of awkward lengths, and one run that is done."""

from pathlib import Path

import numpy as np
import pytest
import torch

from memexp.data.corpus import Corpus, TokenDocument
from memexp.data.library import prepare
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.store.folder import Run
from memexp.train.loop import train
from memexp.train.spec import specify

from ..tiny import configure

VOCABULARY, SEGMENT = 40, 8

WINDOWED = ["block", "block_knn"]
"""Architectures that write to their memory within a segment, after every window."""


def build(*overrides: str) -> SegmentModel:
    """A model that scores segments of 8, with a sharp memory of 40 pairs, 4 of them retrieved."""
    arch = next((each for each in overrides if each.startswith("arch=")), "arch=vanilla")
    few = ["arch.neighbours=4"] if arch in ("arch=knn", "arch=block_knn") else []
    config = configure(f"segment={SEGMENT}", "size.memory=40", "size.attention.scale=4.0", *few, *overrides)
    torch.manual_seed(0)
    model = build_model(config, vocabulary=VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def documents(*lengths: int) -> list[TokenDocument]:
    """Random tokens, the same for the same place and length."""
    return [
        TokenDocument(
            f"{place}-{length}",
            np.random.default_rng((place, length)).integers(VOCABULARY, size=length).astype(np.uint16),
            length,
        )
        for place, length in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a prepared corpus and the runs of this folder's tests."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="session")
def corpus(root: Path) -> Corpus:
    return prepare(configure().data, root)


@pytest.fixture(scope="session")
def knn(root: Path, corpus: Corpus) -> Run:
    """A run with a memory of 64 pairs, trained just long enough that its memory matters."""
    spec = specify(configure("arch=knn", "arch.scale=8", "steps=8"), corpus, root)
    return train(spec, command="memexp train")


@pytest.fixture(scope="session")
def vanilla(root: Path, corpus: Corpus) -> Run:
    return train(specify(configure("arch=vanilla", "steps=1"), corpus, root), command="memexp train")

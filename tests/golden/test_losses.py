"""Every architecture at tiny size trains on the same tokens to the losses of losses.json, so that no number drifts unseen.

A loss moves when the arithmetic of a model, an optimizer, a schedule or the order of random numbers does. If that was the
purpose of a change, or a new version of PyTorch draws other random numbers, write the losses again and say why in the
commit:

    MEMEXP_GOLDEN=write .venv/bin/pytest tests/golden

A new architecture gets its losses by the same command. They do not say that a model is right: its equivalence test does.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from memexp.data.corpus import TokenDocument
from memexp.model.build import build_model
from memexp.train.loop import update
from memexp.train.optimizer import build_optimizer

from ..tiny import configure
from ..train.test_update import open_session

GOLDEN = Path(__file__).with_name("losses.json")
WRITE = os.environ.get("MEMEXP_GOLDEN") == "write"

ARCHS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "arch").glob("*.yaml"))
ARCHS += ["titans arch.role=context arch.window=0 arch.persistent=3"]  # another model in the same file
VOCABULARY, STEPS = 40, 8

TOLERANCE = 2e-6
"""Relative. The rounding of other CPUs moves no loss by more than 3e-7: with AVX-512, AVX2 or no vector instructions, and with
MKL's or oneDNN's kernels for old processors. A change as small as 0.981 for AdamW's 0.98 moves each by 5e-6 or more."""


def documents() -> list[TokenDocument]:
    """Documents that repeat a phrase of their own, longer than a segment, so that a memory helps; some end in padding."""
    generator = np.random.default_rng(14)
    texts = [np.resize(generator.integers(VOCABULARY, size=phrase), 7 * phrase) for phrase in (21, 23, 26, 29, 31)]
    return [TokenDocument(str(len(text)), text.astype(np.uint16), len(text)) for text in texts]


def losses(arch: str, folder: Path) -> list[float]:
    """Mean nats a token of each step. The weights are large enough that every part of the model matters."""
    config = configure(
        *f"arch={arch}".split(), "segment=8", "lanes=3", "accumulate=4", "size.memory=40", "size.attention.scale=4", "arch.dropout=0.1",
        "optim.warmup=2", f"steps={STEPS}",
    )  # fmt: skip
    torch.manual_seed(14)
    model = build_model(config, vocabulary=VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    session = open_session(config, model, documents(), folder, optimizer=build_optimizer(model, config.optim))
    return [update(session).loss for _ in range(STEPS)]


@pytest.mark.parametrize("arch", ARCHS)
def test_an_architecture_trains_to_its_golden_losses(arch: str, tmp_path: Path) -> None:
    found = losses(arch, tmp_path)
    golden = json.loads(GOLDEN.read_text())
    if WRITE:
        written = {name: found if name == arch else golden.get(name) for name in ARCHS}
        lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in written.items() if row]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    assert arch in golden, (
        f"losses.json has no {arch}; `MEMEXP_GOLDEN=write .venv/bin/pytest tests/golden` writes its losses"
    )
    assert found == pytest.approx(golden[arch], rel=TOLERANCE), (
        f"the losses of {arch} have moved; expected those of losses.json, or its update where the arithmetic was to change"
    )


def test_no_losses_are_kept_of_what_is_gone() -> None:
    assert set(json.loads(GOLDEN.read_text())) <= set(ARCHS)

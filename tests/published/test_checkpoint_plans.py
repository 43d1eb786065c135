"""What a plan says that a step on a published checkpoint needs, against what a step holds on a GPU that is not there."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ..checkpoints import described
from ..fake_cuda.conftest import pool as pool
from ..fake_cuda.device import a_gpu
from ..fake_cuda.work import on_gpu, planned, spec_of
from ..tiny import configure
from .packages import package

package("transformers")

WORDS = 32_000

SIZES = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 3, "num_attention_heads": 16, "num_key_value_heads": 4,
    "head_dim": 64, "vocab_size": WORDS, "max_position_embeddings": 4096, "tie_word_embeddings": False, "pad_token_id": 0,
}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "gpt-neox": {"model_type": "gpt_neox", "num_key_value_heads": None, "intermediate_size": 4096},
    "olmo-2": {"model_type": "olmo2"},
    "phi-3": {"model_type": "phi3"},
    "qwen-3": {"model_type": "qwen3"},
}
"""Two norms of different kinds, before and after; feed-forward layers with and without a gate, of one product or two."""

TRAINED = (
    ("arch=vanilla", "optim.train=all", "precision=fp32"),
    ("arch=xl", "mem=512", "optim.train=all", "precision=bf16"),
    ("arch=vanilla", "optim.train=lora", "precision=bf16"),
)


def planned_and_held(said: dict[str, Any], *words: str) -> tuple[int, int]:
    """The bytes that a plan says, and those that the second step holds at most; nothing has values, so nothing is verified."""
    from memexp.model.pretrained import load
    from memexp.train.loop import update
    from memexp.train.session import open_session

    def without_weights(transformers: Any, folder: Path, config: Any) -> Any:
        return transformers.AutoModelForCausalLM.from_config(config)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = described(Path(folder) / "checkpoint", **SIZES | said)
        config = on_gpu(
            "size=checkpoint", f"size.checkpoint={checkpoint}", "lanes=32", "segment=512", "steps=4", *words
        )
        expected = planned(config, WORDS)  # first, so that transformers is loaded while torch is as it is
        with (
            a_gpu() as watch,
            mock.patch.object(load, "_read", without_weights),
            mock.patch.object(load, "verified", lambda network, *_: network),
            mock.patch.object(load, "float", return_value=1.0, create=True),
        ):
            opened = open_session(spec_of(config, Path(folder), vocabulary=WORDS, long=4 * config.segment + 5))
            update(opened)
            watch.begin()
            update(opened)
            return expected, watch.end().peak


@pytest.mark.parametrize(
    ("family", "words"),
    [(family, words) for family in FAMILIES for words in TRAINED if family == "llama" or "precision=bf16" in words],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_a_step_holds_what_the_plan_says(family: str, words: tuple[str, ...], pool: ProcessPoolExecutor) -> None:
    expected, held = pool.submit(planned_and_held, FAMILIES[family], *words).result()
    print(f"planned {expected / 1e9:.3f} GB, held {held / 1e9:.3f} GB")
    assert held == pytest.approx(expected, rel=0.05)


def test_a_mixture_of_experts_has_a_plan_too(tmp_path: Path) -> None:
    """Of which it is not known what it computes; its feed-forward layers count as one with a gate."""
    small = SIZES | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    said = small | {"vocab_size": 300, "model_type": "mixtral", "num_local_experts": 4}
    checkpoint = described(tmp_path / "checkpoint", **said)
    plans = [
        planned(
            configure("size=checkpoint", f"size.checkpoint={checkpoint}", "arch=vanilla", f"optim.train={train}"), 300
        )
        for train in ("all", "none")
    ]
    assert plans[0] > 2 * plans[1]

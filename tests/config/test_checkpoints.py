"""What `size=checkpoint` fills in and refuses; nothing here reads weights, and nobody answers for the hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from memexp.config import checkpoints
from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch
from memexp.config.checkpoints import checksum, find_folder, licence_of, shape_of, windows_of
from memexp.config.checks import remarks
from memexp.config.compose import compose, typed
from memexp.config.train import TrainConfig
from memexp.errors import UserError

from ..checkpoints import LLAMA, described
from ..messages import says


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return described(tmp_path / "Tiny-Llama")


def settings(*words: str) -> TrainConfig:
    config: TrainConfig = typed(compose("train", ["data=tiny", "device=cpu", "size=checkpoint", *words]))
    return config


def test_the_checkpoint_says_what_it_is(folder: Path) -> None:
    config = settings(f"size.checkpoint={folder}", "arch=knn")
    size = config.size
    assert (size.layers, size.width, size.heads, size.head_size) == (3, 32, 4, 8)
    assert (size.groups, size.feedforward, size.licence) == (2, 48, "apache-2.0")
    assert (size.weights, size.revision) == (checksum(folder), None)
    assert config.data.tokenizer.path == str(folder / "tokenizer.json")
    assert config.data.tokenizer.vocabulary == 300
    assert (config.optim.train, config.steps) == ("none", 0)
    arch: Any = config.arch
    assert (arch.position, arch.normalise, arch.sinks, arch.place) == ("none", False, 4, "edge")
    assert (arch.combine, arch.write, arch.knn_layers) == ("joint", "leaving", [1, 2, 3])
    (line,) = [line.text for line in remarks(config) if "checkpoint:" in line.text]
    assert "apache-2.0" in line
    assert "without a step" in line


def test_elsewhere_nothing_changes() -> None:
    config = typed(compose("train", ["data=tiny", "arch=knn"]))
    assert (config.arch.sinks, config.arch.place, config.arch.combine, config.arch.write) == (0, "none", "gate", "all")
    assert (config.size.weights, config.optim.train) == (None, "all")


def test_the_checksum_is_that_of_the_content_wherever_it_is(folder: Path, tmp_path: Path) -> None:
    assert checksum(described(tmp_path / "other")) == checksum(folder)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        before = checksum(folder)
        (folder / name).write_text((folder / name).read_text() + " ")
        assert checksum(folder) != before, name


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (3, 32, 4, 8, 2, 48)),
        ({"head_dim": 16, "num_key_value_heads": None}, (3, 32, 4, 16, 4, 48)),
        ({"text_config": {"hidden_size": 64, "head_dim": None}}, (3, 64, 4, 16, 2, 48)),
        (
            dict.fromkeys(LLAMA) | {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 9},
            (2, 8, 2, 4, 2, 32),
        ),
    ],
)
def test_families_name_their_shape_differently(tmp_path: Path, said: dict[str, Any], expected: tuple[int, ...]) -> None:
    found = shape_of(described(tmp_path / "x", **said))
    names = ("layers", "width", "heads", "head_size", "groups", "feedforward")
    assert tuple(found[name] for name in names) == expected


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("size.layers=4", "size.layers is 4, but"),
        ("data.tokenizer.vocabulary=1024", "data.tokenizer.vocabulary is 1024, but"),
        ("data.tokenizer.kind=bytes", "data.tokenizer.kind is bytes, but"),
        ("data.tokenizer.path=x.model", "data.tokenizer.path is x.model"),
        ("arch.position=rotary", "arch.position is rotary, which has no place"),
        ("arch.normalise=true", "arch.normalise is true, which has no place"),
        ("arch.dropout=0.1", "arch.dropout is 0.1, which has no place"),
        ("arch=block", "arch is block, which has no place"),
        ("arch=xl_enhanced", "arch is xl_enhanced, which has no place"),
        ("arch=knn_routed arch.place=none", "arch.search is routed, which has no place"),
        ("arch=rmt arch.aux_weight=0.1", "arch.aux_weight is 0.1, which has no place"),
        ("arch=xl arch.reach=window", "arch.sinks is 4 but arch.reach is window"),
        ("task=classify", "data.task is classify, but optim.train is none"),
        ("optim.train=all steps=0", "steps is 0"),
        ("optim.rank=4", "optim.rank is 4, but optim.train is none"),
        ("size.groups=1", "size.groups is 1, but"),
        ("size.weights=0123", "size.weights is 0123, but"),
        ("size.licence=mit", "size.licence is mit, but"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(folder: Path, words: str, seen: str) -> None:
    with pytest.raises(UserError, check=says(seen, "expected")):
        settings(f"size.checkpoint={folder}", *words.split())


@pytest.mark.hard
def test_every_architecture_fits_or_is_refused_by_name(folder: Path) -> None:
    fits = {name for name, schema in ARCHS.items() if schema.beside_a_checkpoint is not Arch.beside_a_checkpoint}
    for name in ARCHS:
        words = [f"size.checkpoint={folder}", f"arch={name}", "optim.train=all"]
        if name in fits - {"knn_routed", "rmt_xl"}:
            settings(*words)
        else:
            with pytest.raises(UserError, check=says("which has no place for the layers of a published checkpoint")):
                settings(*words)
    assert fits == {"vanilla", "xl", "knn", "knn_routed", "rmt", "rmt_xl", "armt", "infini"}


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("size=tiny size.checkpoint=x", "size=tiny has a shape of its own"),
        ("size=tiny optim.train=lora", "size=tiny starts from random weights"),
        ("size=checkpoint", "size=checkpoint needs a checkpoint"),
        ("size=checkpoint size.checkpoint=./nowhere", "is no folder"),
        ("size=tiny arch=knn arch.place=edge", "arch.place is edge but arch.position is t5"),
        ("size=tiny arch=knn arch.sinks=2 arch.reach=window", "arch.sinks is 2 but arch.reach is window"),
        ("size=tiny steps=0", "steps is 0; expected at least 1 step"),
        ("size=checkpoint size.checkpoint=x size.cutoffs=[100]", "one output layer for all words"),
    ],
)
def test_what_makes_no_sense_without_one_is_refused(words: str, seen: str) -> None:
    with pytest.raises(UserError, check=says(seen)):
        typed(compose("train", ["data=tiny", "device=cpu", *words.split()]))


@pytest.mark.parametrize(
    ("file", "content", "seen"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{", "is no JSON"),
        ("config.json", "[]", "holds a list"),
        ("config.json", "{}", "has no hidden_size"),
        ("config.json", json.dumps(LLAMA | {"num_hidden_layers": "3"}), "num_hidden_layers='3'"),
        ("config.json", json.dumps(LLAMA | {"quantization_config": {}}), "quantized"),
        ("model.safetensors", None, "has no *.safetensors"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("model.safetensors.index.json", '{"weight_map": ["a"]}', "has no weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"a": {}}}', "lacks {}"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "model-2.safetensors"}}', "lacks model-2.safetensors"),
    ],
)
def test_an_incomplete_folder_is_refused(folder: Path, file: str, content: str | None, seen: str) -> None:
    if content is None:
        (folder / file).unlink()
        (folder / "pytorch_model.bin").write_bytes(b"may hold code")
    else:
        (folder / file).write_text(content)
    with pytest.raises(UserError, check=says(seen)):
        settings(f"size.checkpoint={folder}")


def test_no_licence_is_said_to_be_none(folder: Path) -> None:
    (folder / "README.md").write_text("license: mit\n")
    assert licence_of(folder) is None
    lines = [line.text for line in remarks(settings(f"size.checkpoint={folder}"))]
    assert any("names no licence" in line for line in lines)


class Hub:
    """In place of the hub: what it was asked, and one answer to all questions."""

    def __init__(self, answer: Any) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answer = answer

    def model_info(self, name: str, **options: Any) -> Any:
        self.asked.append((name, options))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    hub = Hub(OSError("nobody is there"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(checkpoints, "_cached", lambda name, revision: None)
    return hub


def test_the_hub_is_asked_once_with_a_bound(offline: Hub) -> None:
    with pytest.raises(UserError, check=says("cannot reach", "nobody is there", "size.checkpoint=FOLDER")):
        settings("size.checkpoint=somebody/model")
    ((name, options),) = offline.asked
    assert (name, options["timeout"]) == ("somebody/model", checkpoints.TIMEOUT)


def test_a_run_folder_makes_nobody_ask_the_hub(offline: Hub) -> None:
    with pytest.raises(UserError, check=says("is not in the hub's cache", "hf download somebody/model --revision abc")):
        find_folder("somebody/model", "abc", ask=False)
    assert not offline.asked


def test_of_the_hub_only_what_is_named_is_fetched(
    offline: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class File:
        rfilename = "model.safetensors"

    class Info:
        siblings, sha = [File()], "0123456789"

    offline._answer = Info()
    fetched: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        fetched.update(options)
        return str(described(tmp_path / "0123456789"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = find_folder("somebody/model", None, ask=True)
    assert (found.path, found.revision) == (tmp_path / "0123456789", "0123456789")
    assert fetched["revision"] == "0123456789"
    (everything,) = [pattern for pattern in fetched["allow_patterns"] if pattern.endswith("*")]
    assert everything == "LICENSE*"
    assert not [pattern for pattern in fetched["allow_patterns"] if pattern.endswith((".py", ".bin", ".pt"))]
    File.rfilename = "pytorch_model.bin"
    with pytest.raises(UserError, check=says("has no *.safetensors", "can hold code")):
        find_folder("somebody/model", None, ask=True)


@pytest.mark.parametrize(
    ("said", "windows"),
    [
        ({}, [None, None, None]),
        ({"sliding_window": 8}, [8, 8, 8]),
        ({"sliding_window": 8, "use_sliding_window": False}, [None, None, None]),
        (
            {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            [8, None, 8],
        ),
        ({"sliding_window": 8, "sliding_window_pattern": 3}, [8, 8, None]),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, [None, 8, 8]),
    ],
)
def test_a_memory_is_read_where_no_window_is(said: dict[str, Any], windows: list[int | None], tmp_path: Path) -> None:
    folder = described(tmp_path / "x", **said)
    assert windows_of(folder) == windows
    config = typed(compose("train", ["size=checkpoint", f"size.checkpoint={folder}", "arch=knn"]))
    assert config.arch.knn_layers == ([i + 1 for i, window in enumerate(windows) if window is None] or [1, 2, 3])

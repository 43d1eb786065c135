"""Every command with a small published checkpoint: from nothing to a table, and what a run keeps of the checkpoint."""

import json
import os
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memexp.bench import checkpoint as checkpoint_bench
from memexp.cli.main import main
from memexp.config.compose import compose, typed
from memexp.experiment import paper_table
from memexp.experiment.command_lines import train_words
from memexp.experiment.definition import load
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.text import lay_out
from memexp.model.build import build_model
from memexp.store.folder import Run, all_runs

from ..checkpoints import checkpoint
from ..messages import says
from .packages import package

package("transformers")
package("rich")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


def run(root: Path, *words: str) -> Run:
    """The run that this command trains."""
    before = {each.name for each in all_runs(root)}
    assert main(["train", *SETTINGS, f"root={root}", *words]) == 0
    (new,) = [each for each in all_runs(root) if each.name not in before]
    return new


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "expected" in line
    return line


SETTINGS = [
    "size=checkpoint", f"size.checkpoint={checkpoint()}", "data=tiny", "device=cpu", "segment=16", "lanes=2", "log_every=1",
    "eval.documents=2", "eval.max_document=96", "data.max_document=128",
]  # fmt: skip


def test_from_nothing_to_a_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Untrained, under each architecture, and read again by every command."""
    found = {}
    for arch, mem in (("vanilla", 0), ("xl", 16), ("knn", 40)):
        found[arch] = run(root, f"arch={arch}", f"mem={mem}", *["arch.neighbours=8"] * (arch == "knn"))
        assert found[arch].summary["steps"] == 0
        assert (found[arch].path / "weights.pt").stat().st_size < 10_000  # none of the checkpoint's
    capsys.readouterr()
    assert main(["table", f"root={root}", "metric=bits_per_byte"]) == 0
    rows = {line.split()[0]: line.split()[1:3] for line in capsys.readouterr().out.splitlines() if line.split()[:1]}
    assert [rows[arch] for arch in found] == [["0", "0"], ["20", "0"], ["20", "40"]]  # four sinks are in the cache too
    name = found["knn"].name
    assert main(["eval", name, "mem=24", f"root={root}", "eval.documents=1"]) == 0
    assert main(["diff", found["xl"].name, name, f"root={root}", f"out={root / 'diff'}"]) == 0
    for arch in found:
        assert main(["generate", found[arch].name, "prompt=def f(x):", "tokens=20", f"root={root}"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        "arch=xl mem=16 optim.train=all",
        "arch=xl mem=16 optim.train=lora optim.rank=2 accumulate=2",
        "arch=knn mem=40 arch.neighbours=8 arch.combine=gate optim.train=memory",
        "arch=knn mem=40 arch.neighbours=8 optim.train=lora recompute=true precision=bf16",
        "arch=rmt mem=3 optim.train=memory accumulate=4 bptt_segments=1",
        "arch=rmt mem=3 optim.train=lora accumulate=4 bptt_segments=3 recompute=true optim=adafactor",
        "arch=armt mem=3 arch.key_size=4 optim.train=memory accumulate=4 recompute=true",
        "arch=infini optim.train=lora optim.rank=2 accumulate=2",
    ],
)
def test_what_is_trained_changes_and_nothing_else(words: str, root: Path) -> None:
    trained = run(root, "steps=3", "checkpoint_every=2", "optim.rate=1e-2", "optim.warmup=0", *words.split())
    weights = torch.load(trained.path / "weights.pt", weights_only=True)["model"]
    whole = "optim.train=all" in words
    assert any("base.embed_tokens" in name or "q_proj.base" in name for name in weights) == whole
    if "lora" in words:
        assert any(name.endswith("q_proj.up.weight") and value.abs().sum() > 0 for name, value in weights.items())
    if "memory" in words:
        assert weights
        assert all(name.startswith(("memories.", "initial", "read_", "write_", "memory_norm")) for name in weights)
    scores = trained.scores[0].summary
    again = run(root, "steps=3", "checkpoint_every=2", "optim.rate=1e-2", "optim.warmup=0", "seed=1", *words.split())
    assert again.scores[0].summary["nats_per_token"] != scores["nats_per_token"]
    assert main(["eval", trained.name, "force=true", f"root={root}"]) == 0
    assert Run(trained.path).scores[0].summary["nats_per_token"] == pytest.approx(scores["nats_per_token"], abs=1e-6)


def test_an_interrupted_run_continues_from_what_it_saved(root: Path) -> None:
    words = ["arch=xl", "mem=16", "optim.train=lora", "optim.rank=2", "optim.rate=1e-2", "optim.warmup=0"]
    straight = run(root, *words, "steps=4")
    whole = torch.load(straight.path / "weights.pt", weights_only=True)["model"]
    from memexp.train import loop

    real, stopped = loop.update, []

    def stop_after_two(session: Any, **options: Any) -> Any:
        if session.step == 2 and not stopped:
            stopped.append(loop.save_session(session))
            raise KeyboardInterrupt
        return real(session, **options)

    shutil.rmtree(straight.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", stop_after_two)
        assert main(["train", *SETTINGS, f"root={root}", *words, "steps=4"]) != 0
    assert stopped[0].stat().st_size < 200_000
    assert main(["train", *SETTINGS, f"root={root}", *words, "steps=4"]) == 0
    weights = torch.load(straight.path / "weights.pt", weights_only=True)["model"]
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_a_run_is_known_by_its_checkpoints_content(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(root, "arch=xl", "mem=16")
    moved = tmp_path / "moved" / "Tiny-Llama"
    shutil.copytree(checkpoint(), moved)
    assert main(["train", *SETTINGS, f"root={root}", "arch=xl", "mem=16", f"size.checkpoint={moved}"]) == 0
    assert len(all_runs(root)) == 1  # the same run
    from safetensors.torch import load_file, save_file

    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    other = run(root, "arch=xl", "mem=16", f"size.checkpoint={moved}")
    assert other.name != first.name
    for name in ("nats_per_token",):
        assert other.scores[0].summary[name] != first.scores[0].summary[name]
    weights["model.norm.weight"] *= 1.5
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert "has other weights than when" in refused(capsys, "eval", other.name, "force=true", f"root={root}")
    shutil.rmtree(moved)
    line = refused(capsys, "eval", other.name, "force=true", f"root={root}")
    assert "no folder" in line


def test_a_run_starts_from_another_of_the_same_checkpoint(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(root, "arch=xl", "mem=16", "optim.train=lora", "steps=2")
    second = run(
        root, "arch=knn", "mem=40", "arch.neighbours=8", "optim.train=lora", "steps=2", f"init_from={first.name}"
    )
    assert second.summary["steps"] == 2
    words = [
        *SETTINGS,
        f"root={root}",
        f"size.checkpoint={checkpoint('Qwen2')}",
        f"init_from={first.name}",
        "optim.train=lora",
    ]
    assert "size.weights is" in refused(capsys, "train", *words)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("arch=vanilla optim.train=memory steps=2", "nothing would be trained"),
        ("arch=knn mem=40 arch.neighbours=8 optim.train=memory steps=2", "nothing would be trained"),
        ("data.tokenizer.kind=words arch=xl", "kind is words, but size=checkpoint"),
    ],
)
def test_what_makes_no_sense_is_refused(words: str, seen: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seen in refused(capsys, "train", *SETTINGS, f"root={root}", *words.split())


def test_a_config_that_leaves_out_its_shape_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(checkpoint("Gemma", head_dim=8), folder)
    config = json.loads((folder / "config.json").read_text())
    del config["head_dim"]  # 256 in transformers
    (folder / "config.json").write_text(json.dumps(config))
    words = [*SETTINGS, f"root={root}", f"size.checkpoint={folder}"]
    for more in ([], ["--dry-run"]):
        assert "size.head_size is 8" in refused(capsys, "train", *words, *more)


def cut_short(folder: Path) -> None:
    (weights,) = folder.glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)


def saying(**changed: Any) -> Callable[[Path], None]:
    """Writes other values into a checkpoint's config."""

    def write(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return write


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, ("cannot read the weights", "those of its config.json")),
        (saying(model_type="nosuch"), ("nosuch",)),
        (saying(rope_parameters={"rope_type": "nosuch", "rope_theta": 1e4}), ("nosuch",)),
        (saying(num_attention_heads=5), ("config.json", "number of attention heads (5)")),
        (saying(num_hidden_layers=3), ("lack model.layers.2",)),
    ],
)
def test_a_damaged_or_unknown_checkpoint_is_one_line(
    damage: Callable[[Path], None], words: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "damaged"
    shutil.copytree(checkpoint(), folder)
    damage(folder)
    line = refused(capsys, "train", *SETTINGS, f"size.checkpoint={folder}", f"root={root}", "arch=xl", "mem=32")
    assert says(*words)(line)


def test_weights_that_no_layer_has_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "fewer"
    shutil.copytree(checkpoint(), folder)
    saying(num_hidden_layers=1)(folder)
    assert (
        main(["train", *SETTINGS, f"size.checkpoint={folder}", f"root={root}", "arch=vanilla", "optim.train=none"]) == 0
    )
    assert "such as model.layers.1." in capsys.readouterr().err


def test_positions_in_embeddings_refuse_a_cache(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint("GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=512, n_inner=48, num_key_value_heads=None)
    words = [*SETTINGS, f"size.checkpoint={folder}", f"root={root}"]
    assert "adds positions to its embeddings" in refused(capsys, "train", *words, "arch=xl")
    assert main(["train", *words, "arch=vanilla"]) == 0


def test_plans_and_python_know_checkpoints(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import memexp

    for arch in ("vanilla", "xl", "knn", "rmt"):
        assert main(["train", *SETTINGS, f"root={root}", f"arch={arch}", "optim.train=all", "--dry-run"]) == 0
    assert "all its weights are trained" in capsys.readouterr().out
    kept = run(root, "arch=knn", "mem=40", "arch.neighbours=8")
    trained = memexp.load(kept.name, root=root)
    scored = memexp.score(trained, "def f(x):\n    return x\n" * 9)
    assert b"".join(scored.pieces) == ("def f(x):\n    return x\n" * 9).encode()[1:]
    identity = json.loads((kept.path / "identity.json").read_text())
    assert identity["size"]["weights"] == trained.settings.size.weights
    assert "checkpoint" not in identity["size"]
    assert str(checkpoint()) not in json.dumps(identity)


@pytest.mark.parametrize("task", ["passkey", "needle"])
def test_a_checkpoint_answers_questions_about_long_texts(
    task: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own tokenizer instead of the task's words; a random one knows nothing."""
    words = ["size=checkpoint", f"size.checkpoint={checkpoint()}", f"data={task}", "data.source.documents=[4,4,6]"]
    words += ["segment=64", "lanes=2", "accumulate=1", "eval.documents=4", "eval.lanes=2", f"root={root}", "device=cpu"]
    for arch in ("xl mem=64", "knn mem=512 arch.neighbours=8"):
        assert main(["train", *words, "tag=long", *f"arch={arch}".split()]) == 0
    capsys.readouterr()
    assert main(["table", "metric=exact_match", "by=length", "tag=long", f"root={root}"]) == 0
    assert "exact match" in capsys.readouterr().out


def test_a_table_of_memories_is_filled_and_drawn(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of the experiment, on short texts, by the commands that it says; then its table without the runs."""
    experiment = deepcopy(load("checkpoints/memories", checkpoint=str(checkpoint())))
    experiment.rows = {label: experiment.rows[label] for label in ("kNN memory in every third layer", "full attention")}
    experiment.rows["kNN memory in every third layer"].every = 2  # it has two layers
    experiment.rows["kNN memory in every third layer"].small["mem"] = 512
    experiment.baseline = None
    wanted_columns = ("to 512", "to 1K", "pass key in 1K", "needle in 1K")
    experiment.columns = {label: experiment.columns[label] for label in wanted_columns}
    for label in wanted_columns[:2]:
        experiment.columns[label].small = {"data": "tiny"}
    for label in wanted_columns[2:]:
        few = {"data.source.lengths": [128], "data.source.test_lengths": [64, 128], "eval.documents": 0}
        experiment.columns[label].small |= few
        experiment.columns[label].slice = "length=128"
    experiment.scales["small"].set |= {"segment": 64, "eval.max_document": 1024}
    monkeypatch.setattr(paper_table, "load", lambda name, checkpoint: experiment)
    opened = paper_table.open_table("checkpoints/memories", scale="small")
    library = Library(root)
    commands = {" ".join(train_words(cell, library, tag=experiment.name)): cell for cell in opened.cells}
    assert len(commands) == 2 * 3
    for words in commands:
        assert main([*words.split(), f"root={root}"]) == 0, words
    library.forget()
    grid = lay_out(fill(opened, library))
    assert not grid.missing
    knn, full = (
        dict(reversed([*zip(grid.headers, line, strict=True)])) for line in grid.lines
    )  # of equal headers the first
    assert (full["token time"], full["of the gain"]) == ("1.00", "100 %")
    assert float(knn["token time"]) > 0
    assert int(knn["state"].replace(",", "")) < int(float(full["state"].removesuffix("M")) * 1e6)
    capsys.readouterr()
    assert main(["table", "checkpoints/memories", f"root={root}", f"out={root / 'out'}"]) == 0
    assert "kNN memory in every third layer" in (root / "out" / "small-Tiny-Llama.svg").read_text()
    assert (root / "out" / "small-Tiny-Llama.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("tied", "words", "only_together"),
    [
        (False, "optim.train=lora optim.rank=2", ""),
        (True, "optim.train=all", "shard_weights=true"),
    ],
)
def test_two_processes_train_what_one_trains(tied: bool, words: str, only_together: str, root: Path) -> None:
    """Where the output layer is the embedding, it stays that with shared weights."""
    published = checkpoint(tie_word_embeddings=tied)
    own = [
        f"size.checkpoint={published}",
        "arch=rmt",
        "mem=3",
        "steps=2",
        "accumulate=2",
        "optim.warmup=0",
        *words.split(),
    ]
    alone = run(root, *own, "tag=one")
    weights = torch.load(alone.path / "weights.pt", weights_only=True)["model"]
    shutil.rmtree(alone.path)
    together = run(root, *own, "devices=2", *only_together.split())
    found = torch.load(together.path / "weights.pt", weights_only=True)["model"]
    if tied:
        assert torch.equal(found["head.embedding.weight"], found["head.output.weight"])
    assert found.keys() == weights.keys()
    assert all(torch.allclose(found[name], weights[name], atol=1e-6) for name in weights)


def test_plans_count_gradients_and_optimizer_of_what_is_trained() -> None:
    from memexp.config.compose import compose, typed
    from memexp.cost.memory import items

    def bytes_of(*words: str) -> dict[str, int]:
        config = typed(compose("train", [*SETTINGS, "precision=fp32", "arch=xl", "mem=16", "accumulate=4", *words]))
        return {item.what: item.bytes for item in items(config, vocabulary=257)}

    whole, some, nothing = bytes_of("optim.train=all"), bytes_of("optim.train=lora", "optim.rank=2"), bytes_of()
    # down and up of four projections in two layers; two of them have half as many outputs
    added = 2 * 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32))
    assert some["optimizer"] == 2 * 4 * added
    assert whole["optimizer"] == 2 * whole["parameters"]
    assert some["parameters"] == whole["parameters"] + 4 * added
    assert nothing["optimizer"] == nothing["gradients"] == nothing.get("activations", 0) == 0
    assert (some["gradients"], whole["gradients"]) == (4 * added, whole["parameters"])
    # of each projection, the backward pass also needs what `down` gives for the tokens of a segment
    more = bytes_of("optim.train=lora", "optim.rank=5")
    assert more["activations"] - some["activations"] == 4 * (5 - 2) * (2 * 4) * (2 * 16)


def of_classes(root: Path) -> list[str]:
    """Settings of runs on texts that end in one of two letters, which a network with random weights can tell apart."""
    rows = [
        {"text": f"{number:02d}" + "ab" * 11 + "xy"[number % 2] * 6, "party": number % 2 == 0} for number in range(24)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "size=checkpoint", f"size.checkpoint={checkpoint()}", "data=text", f"data.path={root / 'rows.jsonl'}", "task=classify",
        "data.source.label=party", "data.valid_documents=2", "data.test_documents=8", "segment=16", "lanes=4", f"root={root}",
        "device=cpu", "arch=rmt", "mem=2", "accumulate=2", "bptt_segments=1", "optim.warmup=0", "optim.rate=3e-2", "steps=30",
    ]  # fmt: skip


def test_a_checkpoint_learns_classes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is new is trained."""
    words = of_classes(root)
    assert "has no vectors of the classes" in refused(capsys, "train", *words, "optim.train=none")
    assert main(["train", *words, "optim.train=memory"]) == 0
    (found,) = all_runs(root)
    losses = [line["loss"] for line in found.metrics if line["loss"] is not None]
    assert losses[0] < 3  # of two classes, not of the vocabulary
    assert losses[-1] < losses[0]
    summary = found.scores[0].summary
    assert (summary["accuracy"], summary["f1"]) == (1.0, 1.0)
    weights = torch.load(found.path / "weights.pt", weights_only=True)["model"]
    assert weights["head.output.weight"].shape == (2, 32)
    assert not [name for name in weights if name.startswith(("head.embedding", "layers."))]
    tokens = np.load(found.scores[0].path / "tokens.npy")
    assert set(tokens) == {257, 258}  # after the tokenizer's, though the embedding has more rows
    for train in ("lora", "all"):
        assert main(["train", *words, f"optim.train={train}", "steps=2", f"init_from={found.name}"]) == 0
    assert main(["table", "metric=f1", f"root={root}"]) == 0


def test_classes_come_after_a_tokenizer_that_fills_the_embedding(root: Path) -> None:
    """As in most published checkpoints; and the plan counts the output layer that there is."""
    from memexp.config.compose import compose, typed
    from memexp.cost.memory import items
    from memexp.cost.table import HARDWARE, cost

    words = [*of_classes(root), f"size.checkpoint={checkpoint(vocab_size=257)}", "optim.train=all", "steps=1"]
    assert main(["train", *words]) == 0
    weights = torch.load(all_runs(root)[0].path / "weights.pt", weights_only=True)["model"]
    assert (weights["head.embedding.weight"].shape, weights["head.output.weight"].shape) == ((257, 32), (2, 32))
    config = typed(compose("train", [*words, "precision=fp32"]))
    [logits] = [item for item in items(config, vocabulary=259, classes=2) if item.what == "logits"]
    assert logits.how.startswith(f"{4 * 16 * 2:,} at once")
    planned = cost(config, HARDWARE["h100"], devices=1, utilisation=1)
    own = {value.data_ptr(): value for value in weights.values()}  # the embedding has two names
    assert planned.parameters == sum(value.numel() for value in own.values())


def test_classes_are_new_to_a_checkpoint_that_was_trained_to_predict(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*of_classes(root), "optim.train=all"]
    assert main(["train", *words, "task=predict", "steps=1"]) == 0
    [source] = all_runs(root)
    capsys.readouterr()
    assert main(["train", *words, "steps=1", "optim.rate=0", f"init_from={source.name}"]) == 0
    said = capsys.readouterr().out
    assert "new, from its initial value: head.output.weight\n" in said
    [found] = [each for each in all_runs(root) if each.name != source.name]
    before, after = (torch.load(each.path / "weights.pt", weights_only=True)["model"] for each in (source, found))
    assert before.pop("head.output.weight").shape == (300, 32)
    assert after.pop("head.output.weight").shape == (2, 32)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    line = refused(capsys, "train", *words, "task=predict", "steps=2", f"init_from={found.name}")
    assert "head.output.weight has shape (2, 32)" in line
    assert "Use the same data=, task=" in line


def test_the_cost_of_each_memory_is_measured(root: Path) -> None:
    """What is kept grows with the text only under full attention and kNN memory: so many keys and values, by hand."""
    assert main(["bench", "checkpoint", f"checkpoint={checkpoint()}", "slots=4096", "repeats=1", f"root={root}"]) == 0
    content = json.loads((root / "results" / "bench" / f"checkpoint-{checkpoint().name}.json").read_text())
    figures = {each["what"]: each for each in content["figures"]}
    of_a_token = 2 * 2 * 2 * 8 * 4  # keys and values of two layers, two groups of heads of size 8
    for read in (512, 4096):
        kept = {
            name: figures[f"{name} after {read:,} tokens"]["facts"]["MiB kept"] * 2**20
            for name in checkpoint_bench.MEMORIES
        }
        assert kept["no memory"] == 0
        assert kept["cache with sinks"] == pytest.approx((512 + 4) * of_a_token, rel=0.01)
        assert kept["full attention"] == pytest.approx((read + 4) * of_a_token, rel=0.01)
        # beside it a cache of a segment, and room for the pairs of a segment
        assert kept["kNN memory in all layers"] == pytest.approx((read + 512 + 512 + 4) * of_a_token, rel=0.01)
    assert all(min(each["ours_measured"] + each["other_measured"]) > 0 for each in figures.values())


def test_a_memory_that_a_checkpoint_cannot_have_is_left_out_of_its_costs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kNN memory reads farther than the windows of this one reach."""
    folder = checkpoint("Mistral", sliding_window=8)
    assert main(["bench", "checkpoint", f"checkpoint={folder}", "slots=512", "repeats=1", f"root={root}"]) == 0
    assert "left out kNN memory in all layers: " in "".join(capsys.readouterr())
    content = json.loads((root / "results" / "bench" / f"checkpoint-{folder.name}.json").read_text())
    assert {each["ours"] for each in content["figures"]} == {*checkpoint_bench.MEMORIES} - {"kNN memory in all layers"}


@pytest.mark.parametrize("first", ["all", "memory", "lora"])
def test_what_another_run_trained_is_kept_or_refused(
    first: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never are its weights put back as published, in this run or in one that reads it."""
    words = ["arch=infini", "optim.rate=1e-2", "optim.warmup=0", "steps=2"]
    trained = run(root, *words, f"optim.train={first}")
    nats = trained.scores[0].summary["nats_per_token"]
    kept = []
    for then in ("all", "memory", "lora", "none"):
        command = [
            *SETTINGS,
            f"root={root}",
            "arch=infini",
            f"optim.train={then}",
            f"init_from={trained.name}",
            "tag=x",
            "steps=0",
        ]
        capsys.readouterr()
        if main(["train", *command]) == 0:
            kept.append(then)
            (new,) = all_runs(root, tag="x")
            assert new.scores[0].summary["nats_per_token"] == pytest.approx(nats, abs=1e-6)
            assert main(["eval", new.name, "force=true", f"root={root}"]) == 0
            assert Run(new.path).scores[0].summary["nats_per_token"] == pytest.approx(nats, abs=1e-6)
            shutil.rmtree(new.path)
        else:
            assert re.search(
                "would put back as published|nothing would; expected the .* optim|other weights; expected the optim.train",
                capsys.readouterr().err,
            )
    assert kept == [first]


def test_a_checkpoint_that_moved_is_found_by_its_runs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before" / "Tiny", tmp_path / "after" / "Tiny"
    shutil.copytree(checkpoint(), before)
    trained = run(root, "arch=xl", "mem=16", f"size.checkpoint={before}")
    after.parent.mkdir()
    before.rename(after)
    line = refused(capsys, "eval", trained.name, "force=true", f"root={root}")
    assert "size.checkpoint=NEW" in line
    assert main(["train", *SETTINGS, f"root={root}", "arch=xl", "mem=16", f"size.checkpoint={after}"]) == 0
    assert "its checkpoint was" in capsys.readouterr().out
    assert main(["eval", trained.name, "force=true", f"root={root}"]) == 0
    assert main(["generate", trained.name, "prompt=a", "tokens=2", f"root={root}"]) == 0


@pytest.mark.parametrize(
    ("family", "words", "seen"),
    [
        ("GPT2", "arch=vanilla segment=40", "segment is 40, which takes 40 places"),
        ("GPT2", "arch=rmt mem=4 segment=30 optim.train=memory steps=1", "takes 38 places"),
        ("Llama", "arch=xl mem=16 steps=5", "steps is 5, but optim.train is none"),
        ("Llama", "arch=rmt mem=4", "random numbers before they are trained"),
        ("Llama", "arch=armt mem=4", "random numbers before they are trained"),
        ("Mistral", "arch=knn mem=64 arch.neighbours=4 arch.cache=16 segment=8", "sees 8 tokens"),
    ],
)
def test_what_a_checkpoint_has_never_seen_is_refused(
    family: str, words: str, seen: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"GPT2": {"max_position_embeddings": 32}, "Mistral": {"sliding_window": 8}}.get(family, {})
    command = [*SETTINGS, f"size.checkpoint={checkpoint(family, **said)}", *words.split(), f"root={root}"]
    assert seen in refused(capsys, "train", *command)


def test_a_memory_starts_as_the_checkpoint_is_used_to(root: Path) -> None:
    """Vectors of a memory are as long as embeddings, also if these are short, and gates are closed."""
    from safetensors.torch import load_file, save_file

    short = root / "short"
    shutil.copytree(checkpoint(), short)
    weights = load_file(short / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 0.1
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    words = [*SETTINGS, f"size.checkpoint={short}", "optim.train=memory", "steps=1"]
    settings = typed(compose("train", [*words, "arch=rmt", "mem=4", "arch.past_memories=2"]))
    model: Any = build_model(settings, vocabulary=300)
    length = model.head.embedding_VD.square().mean().sqrt().item()
    assert length == pytest.approx(0.1, rel=0.2)
    for name in ("initial_MD", "read_MD", "write_MD", "retrieved_MD"):
        assert getattr(model, name).square().mean().sqrt().item() == pytest.approx(length, rel=0.3), name
    assert typed(compose("train", [*words, "arch=knn", "arch.combine=gate"])).arch.gate == -5
    assert typed(compose("train", [*words, "arch=knn", "arch.combine=gate", "arch.gate=0"])).arch.gate == 0
    assert typed(compose("train", [*SETTINGS, "arch=knn"])).arch.gate == 0

"""One flipped byte in any file of a run or of a corpus: a command either says in one line which file is damaged, or gives what it
gave before."""

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from memexp.cli.main import main
from memexp.data.library import prepare
from memexp.errors import UserError
from memexp.files import read_json, write_json
from memexp.store.folder import Run, all_runs
from memexp.store.scores import load_scores
from memexp.train import checkpoint, loop

from ..messages import says
from ..tiny import TINY, configure
from .test_resume import Crash

STOPPED = ("train", "arch=vanilla", "seed=1", "checkpoint_every=1", *TINY)
DONE = ("train", "arch=knn", "mem=64", *TINY)
OTHER = ("train", "arch=vanilla", *TINY)

COMMANDS: dict[str, tuple[str, ...]] = {
    "resume": STOPPED,
    "train": DONE,
    "eval": ("eval", "knn-tiny", "device=cpu", "force=true", "retrieved=2"),
    "kept": ("eval", "knn-tiny", "device=cpu"),
    "diff": ("diff", "vanilla-tiny-mem0-s0", "knn-tiny"),
    "table": ("table",),
    "runs": ("runs",),
    "generate": ("generate", "knn-tiny", "device=cpu", "tokens=4", "prompt=a"),
    "data": ("data", "data=tiny"),
}

READERS = {
    "results/runs/*-s1-*/checkpoints/step-0000003.pt": "resume",
    "results/runs/*-s1-*/metrics.jsonl": "resume",
    "results/runs/knn-*/weights.pt": "eval",
    "results/runs/knn-*/config.yaml": "table",
    "results/runs/knn-*/identity.json": "kept",
    "results/runs/knn-*/metrics.jsonl": "runs",
    "results/runs/knn-*/summary.json": "runs",
    "results/runs/knn-*/eval/*/token_nats.npy": "diff",
    "results/runs/knn-*/eval/*/tokens.npy": "diff",
    "results/runs/knn-*/eval/*/retrieved.npy": "diff",
    "results/runs/knn-*/eval/*/documents.json": "diff",
    "results/runs/knn-*/eval/*/summary.json": "table",
    "data/tiny-*/tokens.bin": "eval",
    "data/tiny-*/documents.json": "train",
    "data/tiny-*/tokenizer.model": "generate",
    "data/tiny-*/manifest.json": "train",
}
"""Every kind of file that a run or a corpus keeps, and the command that certainly reads it."""

QUICK = ("step-0000003.pt", "weights.pt", "token_nats.npy", "tokens.bin")
"""Files whose numbers nothing else would check."""


class Clean(NamedTuple):
    """A root that nothing has damaged."""

    root: Path
    seen: dict[str, Any]
    """What each command gives."""


def flipped(path: Path, at: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture(scope="module")
def clean(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    root = tmp_path_factory.mktemp("clean")
    shutil.copytree(prepared / "data", root / "data", symlinks=True)
    where = f"root={root}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_finish", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            main([*STOPPED, where])
    for words in (DONE, OTHER, ("eval", "knn-tiny", "device=cpu", "force=true", "retrieved=2")):
        assert main([*words, where]) == 0
    return Clean(root, {})


def everything_kept(root: Path) -> set[str]:
    """The kinds of files in a root that hold something that a command reads."""
    names = {
        str(path.relative_to(root))
        for folder in ("data", "results/runs")
        for path in (root / folder).rglob("*")
        if path.is_file() and path.name not in ("lock", ".lock") and not path.name.endswith(".lock")
    }
    return {re.sub(r"step-\d+", "step-N", re.sub(r"/runs/[^/]*|/eval/[^/]*|data/[^/]*", "*", name)) for name in names}


def test_every_kind_of_file_is_in_the_list(clean: Clean) -> None:
    listed = {
        re.sub(r"step-\d+", "step-N", re.sub(r"/runs/[^/]*|/eval/[^/]*|data/[^/]*", "*", name)) for name in READERS
    }
    assert everything_kept(clean.root) == listed


Told = Callable[[], tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is broken, so that the root in a command that is printed can be told from what else it says."""
    monkeypatch.setenv("COLUMNS", "2000")


def result_of(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    """The exit code of a command, its results without times, and what it printed to stderr."""
    capsys.readouterr()
    code = main([*COMMANDS[name], f"root={root}"])
    printed = capsys.readouterr()
    results: Any = re.sub(r"\d+ (s|min|h)\b|[\d,.]+ tokens/s|│[^│]*│\s*$", "", printed.out.replace(str(root), ""))
    if name == "resume" and code == 0:
        (run,) = (run for run in all_runs(root) if "-s1-" in run.name)
        results = [
            tensor.tolist()
            for tensor in checkpoint.load(run.path / "weights.pt", identity=run.identity["hash"], remedy="")[
                "model"
            ].values()
        ]
    elif name == "eval" and code == 0:
        (run,) = (run for run in all_runs(root) if run.name.startswith("knn"))
        results = load_scores("", run.scores[0]).nats_N.tolist()
    elif name in ("train", "kept", "runs", "table"):
        results = (
            sorted(re.findall(r"\d+\.\d\d+", results))
            if name != "runs"
            else sorted(re.findall(r"\d\.\d{3}|7\d\d\.\d\d", results))
        )
    return code, results, printed.out + printed.err


def refuse_or_agree(
    clean: Clean, kind: str, command: str, chance: random.Random, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> bool:
    """Flip a byte and give the command; returns whether it named the file."""
    if command not in clean.seen:
        shutil.copytree(clean.root, tmp_path / "whole")
        clean.seen[command] = result_of(command, tmp_path / "whole", capsys)[1]
        shutil.rmtree(tmp_path / "whole")
    root = tmp_path / "root"
    shutil.copytree(clean.root, root)
    (path,) = root.glob(kind)
    at, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
    flipped(path, at, bit)
    code, results, printed = result_of(command, root, capsys)
    shutil.rmtree(root)
    lines = [line for line in printed.splitlines() if path.name in line.replace("\n", "")]
    where = f"{kind}, byte {at}, bit {bit}, {command}: exit {code}\n{printed}"
    assert "Traceback" not in printed, where
    if code == 0 and results == clean.seen[command]:
        return bool(lines)
    assert path.name in " ".join(printed.split()), where
    assert code in (0, 2), where
    return True


@pytest.mark.parametrize(
    "kind", [kind if kind.endswith(QUICK) else pytest.param(kind, marks=pytest.mark.hard) for kind in READERS]
)
def test_the_command_that_reads_a_file_names_it_when_a_byte_flips(
    kind: str, clean: Clean, chance: random.Random, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a zip file has bytes that mean nothing, so it may take more than one
    assert any(refuse_or_agree(clean, kind, READERS[kind], chance, tmp_path, capsys) for _ in range(8))


@pytest.mark.hard
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", READERS)
def test_no_command_takes_a_flipped_byte_for_a_result(
    kind: str, command: str, clean: Clean, chance: random.Random, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_or_agree(clean, kind, command, chance, tmp_path, capsys)


# ------------------------------------------------------------------------------------------ no files

OTHER_KINDS: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}

LOCKS = {"results/runs/*-s1-*/lock": "resume", "results/runs/knn-*/eval/*/.lock": "eval"}
"""Files that a command opens to see whether another process works in their folder."""


@pytest.mark.hard
@pytest.mark.parametrize("other", OTHER_KINDS)
@pytest.mark.parametrize("kind", [*READERS, *LOCKS])
def test_what_is_no_file_is_not_waited_for(
    kind: str, other: str, clean: Clean, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in {(READERS | LOCKS)[kind], "runs"}:
        root = tmp_path / command
        shutil.copytree(clean.root, root)
        (path,) = root.glob(kind)
        path.unlink()
        OTHER_KINDS[other](path)
        code, _, printed = result_of(command, root, capsys)
        assert code in (0, 2), printed
        assert "Traceback" not in printed
        if command != "runs":
            # what a link leads to is read if it is a file, so a device is named where it is read
            assert path.name in " ".join(printed.split()), printed


# ------------------------------------------------------------------------------------------ older files


def test_what_trains_a_damaged_run_again_is_for_the_root_in_which_it_is(
    clean: Clean, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(clean.root, tmp_path / "root")
    [weights] = root.glob("results/runs/knn-*/weights.pt")
    flipped(weights, weights.stat().st_size // 2, 0)
    lone = shutil.copytree(weights.parent, tmp_path / "lone")
    for run, words in (
        (str(weights.parent), (f"root={root}` trains it again", f"delete {weights.parent}")),
        (str(lone), ("copy it again", "`memexp train arch=knn mem=64 size=tiny data=tiny device=cpu`")),
    ):
        capsys.readouterr()
        assert main(["eval", run, "device=cpu", "force=true", f"root={root}"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert says(*words)(said)
        assert f"root={clean.root}" not in said


def test_files_without_checksums_are_read(clean: Clean, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As earlier versions wrote them."""
    root = tmp_path / "root"
    shutil.copytree(clean.root, root)
    for run in all_runs(root):
        for path in [*run.path.glob("**/summary.json")]:
            content = read_json(path)
            write_json(path, {name: value for name, value in content.items() if name not in ("checksum", "files")})
        for path in run.path.glob("**/*.pt"):
            torch.save(
                {name: value for name, value in torch.load(path, weights_only=True).items() if name != "checksum"}, path
            )
        lines = (run.path / "metrics.jsonl").read_text()
        (run.path / "metrics.jsonl").write_text(re.sub(r', "checksum": "\w+"', "", lines))
        config = (run.path / "config.yaml").read_text()
        (run.path / "config.yaml").write_text("".join(config.splitlines(keepends=True)[:-1]))
    assert "checksum" not in (run.path / "metrics.jsonl").read_text()
    for name in ("resume", "eval", "diff", "runs", "table"):
        assert result_of(name, root, capsys)[0] == 0, name


def test_older_nats_are_compared_with_their_sums(clean: Clean, tmp_path: Path) -> None:
    shutil.copytree(clean.root / "results", tmp_path / "results")
    (run,) = (run for run in all_runs(tmp_path) if run.name.startswith("knn"))
    (score,) = run.scores
    content = read_json(score.path / "summary.json")
    del content["files"], content["checksum"]
    write_json(score.path / "summary.json", content)
    load_scores("", score)
    nats = np.load(score.path / "token_nats.npy")
    nats[7] = np.nextafter(nats[7], np.float32(9))
    np.save(score.path / "token_nats.npy", nats)
    with pytest.raises(
        UserError,
        check=says(
            "token_nats.npy",
            "documents.json says",
            "score it again with `memexp eval knn-tiny",
            f"root={tmp_path} force=true`",
        ),
    ):
        load_scores("", score)


def test_a_damaged_config_is_written_again_by_the_command_that_made_the_run(
    clean: Clean, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(clean.root, root)
    (run,) = (run for run in all_runs(root) if run.name.startswith("knn"))
    before = {name: (run.path / name).read_bytes() for name in ("config.yaml", "identity.json")}
    for name in before:
        flipped(run.path / name, 20, 0)
    assert result_of("train", root, capsys)[0] == 0
    again = Run(run.path)
    assert again.config["mem"] == 64
    assert (run.path / "identity.json").read_bytes() == before["identity.json"]


def test_a_prepared_corpus_is_the_one_that_is_scored(clean: Clean) -> None:
    """Else a flipped byte in it would not be seen."""
    assert prepare(configure().data, clean.root).path.parent == clean.root / "data"

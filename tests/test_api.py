"""memexp from Python, as its users call it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import memexp
from memexp.cli.main import main
from memexp.errors import UserError

from .messages import says
from .tiny import TINY

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two finished runs, scored on whole documents."""
    root = tmp_path_factory.mktemp("api")
    words = [*TINY, f"root={root}", "steps=2", "eval.documents=2", "eval.max_document=0", "tag=both"]
    assert main(["train", *words, "arch=knn", "mem=64"]) == 0
    assert main(["train", *words, "arch=xl", "seed=1"]) == 0
    return root


def test_a_loaded_run_scores_a_document_as_its_evaluation_did(root: Path) -> None:
    """The losses of a test document's text are those that were kept for it, token by token."""
    trained = memexp.load("knn", root=root, device="cpu")
    [kept] = trained.run.scores
    [first, _] = kept.documents
    document = next(iter(trained.corpus.split("test")))
    assert document.id == first["id"]
    text = trained.tokenizer.decode(document.tokens)
    scored = memexp.score(trained, text)
    np.testing.assert_allclose(scored.nats, np.load(kept.path / "token_nats.npy")[: first["tokens"]], atol=1e-5)
    assert scored.ids.tolist() == document.tokens[1:].tolist()
    assert text.encode().endswith(b"".join(scored.pieces))
    assert len(scored.tokens) == len(scored.nats)
    assert scored.perplexity == pytest.approx(np.exp(first["nats"] / first["tokens"]), rel=1e-5)
    assert trained.settings.mem == 64
    assert not trained.model.training


def test_the_losses_are_those_of_the_model_s_own_logits(root: Path) -> None:
    """A plain loop over segments, with the softmax written out."""
    trained = memexp.load("knn", root=root, device="cpu")
    text = "def square(number):\n    return number * number\n" * 20
    ids = torch.from_numpy(trained.tokenizer.encode(text).astype(np.int64))[None]
    state, nats = trained.model.init_state(1), []
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, trained.model.stride):
            piece = ids[:, start : start + trained.model.stride][:, : ids.shape[1] - 1 - start]
            output = trained.model.step(piece, torch.ones_like(piece, dtype=torch.bool), state)
            state = output.state
            targets = ids[0, start + 1 : start + 1 + piece.shape[1]]
            logits = trained.model.head.logits(output.hidden_BTD)[0]
            nats += (logits.logsumexp(-1) - logits[torch.arange(len(targets)), targets]).tolist()
    np.testing.assert_allclose(memexp.score(trained, text).nats, nats, atol=1e-5)


def test_memory_may_be_off_or_of_another_size(root: Path) -> None:
    trained = memexp.load("knn", root=root, device="cpu")
    text = "one two three four five six seven eight nine ten " * 30
    own = memexp.score(trained, text).nats
    assert not np.allclose(memexp.score(trained, text, memory="off").nats, own)
    assert not np.allclose(memexp.score(memexp.load("knn", mem=32, root=root, device="cpu"), text).nats, own)


def test_runs_and_tables(root: Path) -> None:
    assert [run.name[:3] for run in memexp.runs(root=root)] == ["knn", "xl-"]
    assert memexp.runs(root=root, tag="none") == []
    run = memexp.runs(root=root)[0]
    assert run.state == "done"
    assert run.summary is not None
    assert run.summary["steps"] == run.metrics[-1]["step"] == 2
    assert memexp.load(run, root=root, device="cpu").run == run
    frame = memexp.table(tag="both", root=root)
    assert dict(zip(frame["run"], frame["value"], strict=True)) == pytest.approx(
        {run.name: run.scores[0].summary["perplexity"] for run in memexp.runs(root=root)}
    )
    assert main(["table", "tag=both", f"root={root}", f"out={root / 'out'}"]) == 0
    pandas.testing.assert_frame_equal(frame, pandas.read_csv(root / "out" / "both.csv"))
    paper = memexp.table("memorizing/table4", data=["code"], root=root)
    assert set(paper["row"]) >= {"512", "2048"}
    assert paper["paper"].notna().all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda root: memexp.load("nosuch", root=root), ("nosuch", "expected")),
        (lambda root: memexp.load("knn", mem=7, root=root, device="cpu"), ("mem is 7", "expected")),
        (lambda root: memexp.score(memexp.load("knn", root=root, device="cpu"), ""), ("0 tokens", "two")),
        (
            lambda root: memexp.score(memexp.load("knn", root=root, device="cpu"), "ab", memory="foreign"),
            ("foreign", "on or off"),
        ),
        (lambda root: memexp.table("memorizing/table44", root=root), ("memorizing/table44",)),
        (
            lambda root: memexp.table(root=root, metric="perplexitty"),
            ("metric is 'perplexitty'", "expected one of", "did you mean"),
        ),
        (lambda root: memexp.runs(root=root / "nosuch"), ("nosuch", "existing folder")),
    ],
)
def test_errors_say_what_was_expected(root: Path, wrong: object, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, check=says(*words)):
        wrong(root)  # type: ignore[operator]


def test_importing_memexp_imports_no_large_library() -> None:
    """From any folder, in a new process."""
    program = "import sys, memexp; print(sorted({'torch', 'pandas', 'numpy', 'hydra'} & set(sys.modules)), memexp.load.__name__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={"PYTHONPATH": str(CHECKOUT)},
    )
    assert found.stdout == "[] load\n"

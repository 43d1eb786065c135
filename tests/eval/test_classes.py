"""Classification from the command line to a table, and F1 by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memexp.cli.main import main
from memexp.data.corpus import TokenDocument
from memexp.eval.accuracy import classification
from memexp.eval.score import others
from memexp.store.folder import Run, all_runs

from ..messages import says

UNCUT = "eval.max_document is 9", "task=classify", "expected eval.max_document=0"
"""What a score of classes says to a cut of documents, of which it would take the class away."""


def test_f1_by_hand() -> None:
    true, said = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0, 1])
    found = classification(["a", "b", "c"], true, said)
    assert found["classes"] == {
        "a": {"precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "documents": 3},
        "b": {"precision": pytest.approx(1 / 3), "recall": 0.5, "f1": pytest.approx(0.4), "documents": 2},
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "documents": 1},
    }  # fmt: skip
    assert found["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert found["f1"] == found["f1_macro"] == pytest.approx((2 / 3 + 0.4) / 3)
    two = classification(["false", "true"], np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]))
    assert two["f1"] == two["classes"]["true"]["f1"] == pytest.approx(2 / 3)
    assert two["f1_macro"] == pytest.approx((2 / 3 + 0.5) / 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_f1_is_that_of_counting(pairs: list[tuple[int, int]]) -> None:
    found = classification("abcd", *np.array(pairs).T)
    scores = {}
    for number, name in enumerate("abcd"):
        both = sum(pair == (number, number) for pair in pairs)
        either = sum(pair[0] == number for pair in pairs) + sum(pair[1] == number for pair in pairs)
        assert found["classes"][name]["f1"] == pytest.approx(2 * both / either if either else 0)
        scores |= {name: 2 * both / either} if either else {}
    assert found["f1_macro"] == pytest.approx(sum(scores.values()) / len(scores))


def test_a_stranger_s_memory_reads_no_class() -> None:
    texts = [
        TokenDocument(name, np.array([*tokens, 9], np.uint32), 0, np.arange(len(tokens) + 1) == len(tokens), label="x")
        for name, tokens in (("long", [1, 2, 3, 4, 5]), ("short", [6, 7]))
    ]
    assert [other.tokens.tolist() for other in others(texts)] == [[6, 7, 6, 7, 6, 7], [1, 2, 3]]
    plain = [text._replace(answers=None) for text in texts]  # of task=predict, where a label is no token
    assert [other.tokens.tolist() for other in others(plain)] == [[6, 7, 9, 6, 7, 9], [1, 2, 3]]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Settings of a corpus of fourteen rows, 41 or 42 bytes each."""
    rows = [{"text": "ab" * 20 + str(number), "party": number % 3 == 0} for number in range(14)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=text", f"data.path={tmp_path / 'rows.jsonl'}", "data.source.label=party", f"root={tmp_path}"]
    words += ["data.tokenizer.kind=bytes", "data.valid_documents=2", "data.test_documents=4"]
    return [*words, "size=tiny", "segment=16", "device=cpu"]


def test_a_run_too_short_to_reach_a_class_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "task=classify", "steps=1"]) == 0
    assert "warning: nothing was scored in 1 step" in capsys.readouterr().err


def test_train_eval_and_table(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words += ["task=classify", "arch=rmt", "accumulate=1", "bptt_segments=0", "steps=5", "log_every=1"]
    assert main(["train", *words]) == 0
    (run,) = all_runs(tmp_path)
    # Both lanes read documents of three segments, a step each. No step without a class thins out the loss.
    assert [line["tokens"] for line in run.metrics] == [0, 0, 2, 2, 2]
    *early, loss, later, last = [line["loss"] for line in run.metrics]
    assert early == [None, None]
    assert loss > 0
    assert later == last == loss
    (own,) = run.scores
    summary, tokens = own.summary, np.load(own.path / "tokens.npy")
    assert summary["documents"] == summary["tokens"] == len(tokens) >= 4
    assert set(tokens) <= {256, 257}
    confusion = np.array(summary["confusion"])
    assert confusion.sum(1).tolist() == [int((tokens == 256).sum()), int((tokens == 257).sum())]
    assert summary["accuracy"] == pytest.approx(confusion.trace() / len(tokens))
    assert summary["f1"] == summary["classes"]["true"]["f1"]
    assert list(summary["classes"]) == ["false", "true"]
    assert f"F1 {summary['f1']:.4f}, macro {summary['f1_macro']:.4f}, accuracy" in capsys.readouterr().out

    assert main(["train", *words]) == 0  # once more, and it is done
    assert "nothing to train" in capsys.readouterr().out
    assert len(all_runs(tmp_path)) == 1
    assert main(["eval", run.name, "memory=off", f"root={tmp_path}"]) == 0
    assert "F1 of false" in capsys.readouterr().out
    assert main(["eval", run.name, "eval.max_document=9", f"root={tmp_path}"]) == 2
    assert says("memexp eval: ", *UNCUT)(capsys.readouterr().err)
    assert main(["table", "metric=f1_macro", f"root={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert f"{summary['f1_macro']:.3f}" in shown
    assert "macro F1: mean over the classes" in shown


def test_classes_are_new_to_a_run_that_has_learned_text(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, "steps=1"]) == 0
    (first,) = all_runs(tmp_path)
    assert main(["train", *words, "task=classify", f"init_from={first.name}", "steps=1", "optim.rate=0"]) == 0
    assert "new, from their initial value: the 2 classes of head.embedding_VD" in capsys.readouterr().out
    (second,) = (run for run in all_runs(tmp_path) if run.name != first.name)
    told = [json.loads((run.path / "identity.json").read_text())["data"] for run in (first, second)]
    assert second.summary is not None
    assert second.summary["loss"] is None
    assert "task" not in told[0]
    assert told[1]["task"] == "classify"
    before, after = (weights(run) for run in (first, second))
    assert torch.equal(after["head.embedding_VD"][:256], before["head.embedding_VD"])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "head.embedding_VD")
    assert after["head.embedding_VD"].shape[0] == 258
    assert after["head.embedding_VD"][256:].std() > 0.5


def weights(run: Run) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(run.path / "weights.pt", weights_only=True)["model"]
    return content


def test_what_classification_cannot_be_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, expected in (
        (["train", "task=clasify"], ("task=clasify", "expected one of classify, predict", "did you mean classify?")),
        (["train", "task=classify", "eval.max_document=9"], UNCUT),
        (["train", "task=classify", "data=tiny"], ("data=tiny", "no label", "data.source.label=FIELD")),
    ):
        assert main([*words, f"root={tmp_path}"]) == 2
        assert says("memexp train: ", *expected)(capsys.readouterr().err.splitlines()[-1])
    assert all_runs(tmp_path) == []


@pytest.mark.hard
def test_classes_of_another_corpus_are_new(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first class here may be the second there, so only a run of the same corpus gives the vectors of classes."""
    words += ["task=classify", "arch=vanilla"]
    assert main(["train", *words, "steps=3"]) == 0
    (source,) = all_runs(tmp_path)
    rows = [{"text": "cd" * 20 + str(number), "party": "ab"[number % 2]} for number in range(20)]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path, kept in (("rows.jsonl", 258), ("others.jsonl", 256)):
        capsys.readouterr()
        still = [f"data.path={tmp_path / path}", f"init_from={source.name}", "steps=1", "optim.rate=0", f"tag={path}"]
        assert main(["train", *words, *still]) == 0
        assert ("new, from their initial value: the 2 classes" in capsys.readouterr().out) == (kept == 256)
        (found,) = all_runs(tmp_path, tag=path)
        before, after = (
            torch.load(run.path / "weights.pt", weights_only=True)["model"]["head.embedding_VD"]
            for run in (source, found)
        )
        assert (before == after).all(1).nonzero().flatten().tolist() == list(range(kept))

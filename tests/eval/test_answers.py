"""Scores of documents with answers: which tokens count, how many are right, and what training sees of the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memexp.cli.main import main
from memexp.config.groups import Rescoring, Scored
from memexp.data.corpus import TokenDocument
from memexp.eval.accuracy import accuracies
from memexp.eval.score import Scores, score_documents
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.transformer import head
from memexp.model.transformer.head import Head
from memexp.store.folder import all_runs
from memexp.train.loop import update

from ..data.sources.test_tasks import OPTIONS, task_of
from ..messages import says
from ..tiny import configure
from ..train.test_update import open_session
from .conftest import VOCABULARY, build, documents


def answering(*lengths: int) -> list[TokenDocument]:
    """Random documents of which every third token is scored, or none where there are fewer than three."""
    return [each._replace(answers=np.arange(len(each.tokens)) % 3 == 2) for each in documents(*lengths)]


def score(model: SegmentModel, texts: list[TokenDocument], **options: Any) -> Scores:
    return score_documents(model, texts, **{"lanes": 3, "max_document": 0} | options)


@pytest.mark.parametrize("memory", ["on", "off", "foreign"])
@pytest.mark.parametrize("limit", [0, 16, 17])
def test_answers_score_what_they_score_among_all_tokens(limit: int, memory: str) -> None:
    """What is not scored is read all the same."""
    model, texts = build("arch=knn"), answering(70, 1, 33, 17, 2, 0, 9)
    every = score(model, [each._replace(answers=None) for each in texts], max_document=limit, memory=memory)
    ends = np.cumsum(every.lengths)[:-1]
    expected = [nats[1::3] for nats in np.split(every.nats, ends)]  # tokens 2, 5, 8, ... of each
    found = score(model, texts, max_document=limit, memory=memory)
    np.testing.assert_allclose(found.nats, np.concatenate(expected), atol=1e-5)
    assert found.lengths == [len(each) for each in expected]
    assert found.memory_fill == every.memory_fill
    assert every.said is None


@torch.no_grad()
def test_what_is_said_has_the_largest_logit_of_a_plain_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (text,) = build("arch=vanilla", "segment=64"), answering(60)
    tokens = torch.from_numpy(text.tokens.astype(np.int64))[None]
    hidden = model(tokens, torch.ones_like(tokens, dtype=torch.bool), model.init_state(1), torch.tensor([True]))
    logits = model.head.logits(hidden.hidden_BTD)[0, :-1]
    for at_once in (1 << 25, 3 * VOCABULARY):
        monkeypatch.setattr(head, "LOGITS_AT_ONCE", at_once)
        for first in (0, VOCABULARY - 3):
            found = score(model, [text], answers_from=first).said
            assert found is not None
            assert len(set(found.tolist())) > 1
            assert (found == first + logits[:, first:].max(-1).indices.numpy()[1::3]).all()


class Saying(torch.nn.Module):
    """A head that always says 7."""

    def __init__(self, model: SegmentModel) -> None:
        super().__init__()
        self.embed, self.embedding_VD = model.head.embed, model.head.embedding_VD

    def nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        return torch.zeros(targets_BT.shape)

    def best(self, hidden_BTD: Tensor, first: int) -> Tensor:
        return torch.full(hidden_BTD.shape[:2], 7)


def test_accuracy_by_hand() -> None:
    model = build("arch=xl")
    model.head = Saying(model)  # type: ignore[assignment]

    def text(id: str, tokens: list[int], answers: list[int], **slices: Any) -> TokenDocument:
        mask = np.isin(np.arange(len(tokens)), answers)
        return TokenDocument(id, np.array(tokens, dtype=np.uint16), 0, mask, slices)

    texts = [
        text("right", [7, 1, 7, 7], [2, 3], length=4, gap=[1, 8]),
        text("half", [1, 7, 2, 3, 7], [1, 3], length=5, gap=[1, 8]),
        text("wrong", [7, 7, 7, 7, 3, 3], [4, 5], length=5, gap=[16, 16]),
        text("long", [7] * 12, [1, 11], length=12, gap=[1, 1]),
    ]
    scores = score(model, texts)
    assert scores.said is not None
    assert scores.lengths == [2, 2, 2, 2]
    correct = scores.said == np.array([7, 7, 7, 3, 3, 3, 7, 7])
    assert correct.tolist() == [True, True, True, False, False, False, True, True]
    assert accuracies(texts, scores.lengths, correct) == {
        "accuracy": 5 / 8,
        "exact_match": 0.5,
        "slices": {
            "gap": {
                "1": {"accuracy": 1.0, "exact_match": 1.0, "answers": 4},
                "8": {"accuracy": 0.5, "exact_match": 0.5, "answers": 2},
                "16": {"accuracy": 0.0, "exact_match": 0.0, "answers": 2},
            },
            "length": {
                "4": {"accuracy": 1.0, "exact_match": 1.0, "answers": 2},
                "5": {"accuracy": 1 / 4, "exact_match": 0.0, "answers": 4},
                "12": {"accuracy": 1.0, "exact_match": 1.0, "answers": 2},
            },
        },
    }
    assert list(accuracies(texts, scores.lengths, correct)["slices"]["gap"]) == ["1", "8", "16"]
    # Of the last document the second answer is not read, of the one before there is nothing left.
    cut = score(model, texts, max_document=3)
    assert cut.said is not None
    assert cut.lengths == [2, 2, 0, 1]
    found = accuracies(texts, cut.lengths, cut.said == np.array([7, 7, 7, 3, 7]))
    assert (found["accuracy"], found["exact_match"]) == (4 / 5, 2 / 3)
    assert found["slices"]["gap"]["1"] == {"accuracy": 1.0, "exact_match": 1.0, "answers": 3}
    assert set(found["slices"]["length"]) == {"4", "5", "12"}


def test_gauges_are_means_over_all_segments() -> None:
    """One lane and segments of 8: answers in the second and the third of four segments, which makes no difference."""
    model, (text,) = build("arch=knn"), documents(33)
    seen = []
    step = model.step

    def watched(*arguments: Any) -> Any:
        output = step(*arguments)
        seen.append({name: float(value) for name, value in output.gauges.items()})
        return output

    model.step = watched  # type: ignore[method-assign]
    found = score(model, [text._replace(answers=np.isin(np.arange(33), [9, 20, 21]))], lanes=1)
    assert len(seen) == 4
    assert any(name.startswith("memory_fill") for name in seen[0])
    assert found.memory_fill == seen[3]["memory_fill"]
    assert found.gauges == {
        name: pytest.approx(sum(each[name] for each in seen) / 4, rel=1e-6) for name in seen[0] if name != "memory_fill"
    }
    assert score(build("arch=vanilla"), [text]).gauges == {}


# --------------------------------------------------------------------------------------------- training


def gradients(texts: list[TokenDocument], tmp_path: Path) -> dict[str, Tensor]:
    config = configure("segment=16", "lanes=2", "accumulate=2", "optim.clip=0", "seed=3")
    torch.manual_seed(0)
    session = open_session(config, build_model(config, vocabulary=VOCABULARY), texts, tmp_path)
    update(session)
    assert session.tokens == sum(len(each.scored(0)) for each in texts)
    return {name: each.grad for name, each in session.model.named_parameters() if each.grad is not None}


def test_training_learns_from_answers_alone(tmp_path: Path) -> None:
    """Against the mean of the answers' nats in one plain pass a segment, for vanilla carries nothing."""
    texts = [each._replace(answers=np.isin(np.arange(33), [3, 4, 20])) for each in documents(33, 33)]
    config = configure("segment=16", "lanes=2", "seed=3")
    torch.manual_seed(0)
    model = build_model(config, vocabulary=VOCABULARY)
    total = torch.zeros(())
    for text in texts:
        for start, places in ((0, (3, 4)), (16, (20,))):
            tokens = torch.from_numpy(text.tokens.astype(np.int64))[None, start : start + 16]
            hidden = model.step(tokens, torch.ones_like(tokens, dtype=torch.bool), model.init_state(1)).hidden_BTD
            chances = model.head.logits(hidden)[0].log_softmax(-1)
            total = total - sum(chances[place - 1 - start, int(text.tokens[place])] for place in places)
    (total / 6).backward()
    found = gradients(texts, tmp_path)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_a_target_that_is_not_scored_changes_no_gradient(tmp_path: Path) -> None:
    texts = [each._replace(answers=np.isin(np.arange(33), [3, 4, 20])) for each in documents(33, 33)]

    def changed(place: int) -> list[TokenDocument]:
        return [each._replace(tokens=np.where(np.arange(33) == place, 5, each.tokens)) for each in texts]

    assert all((each.tokens[[20, 32]] != 5).any() for each in texts)
    before, unscored, scored = (gradients(each, tmp_path) for each in (texts, changed(32), changed(20)))
    assert all(torch.equal(before[name], unscored[name]) for name in before)
    assert any(not torch.equal(before[name], scored[name]) for name in before)


# -------------------------------------------------------------------------------------------------- cli


SMALL = [
    "size=tiny",
    "device=cpu",
    "data=copy",
    "data.source.documents=[40,4,6]",
    "data.source.lengths=[2,3]",
    "steps=2",
]


def test_train_and_eval_tell_how_much_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, f"root={tmp_path}"]) == 0
    (run,) = all_runs(tmp_path)
    (own,) = run.scores
    summary = own.summary
    assert own.path.name == "test-1000x0-0-on"
    assert summary["documents"] == 6
    assert summary["gauges"] == {}
    lengths = [json.loads((own.path / "documents.json").read_text())[place]["tokens"] for place in range(6)]
    assert set(lengths) == {4, 6}
    assert summary["tokens"] == sum(lengths) == len(np.load(own.path / "tokens.npy"))
    slices = summary["slices"]["length"]
    assert {value: each["answers"] for value, each in slices.items()} == {
        "2": 4 * lengths.count(4),
        "3": 6 * lengths.count(6),
    }
    right = sum(each["accuracy"] * each["answers"] for each in slices.values())
    assert summary["accuracy"] == pytest.approx(right / sum(lengths))
    said = f"accuracy {summary['accuracy']:.4f}, exact match {summary['exact_match']:.4f}"
    assert said in capsys.readouterr().out

    # What is not asked for is as after training.
    assert main(["eval", run.name, f"root={tmp_path}"]) == 0
    assert [score.path for score in run.scores] == [own.path]
    shown = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = {name.strip(): value.strip() for name, value in shown}
    assert rows["accuracy"] == f"{summary['accuracy']:.4f}"
    assert rows["exact match"] == f"{summary['exact_match']:.4f}"
    assert main(["eval", run.name, f"root={tmp_path}", "eval.documents=2"]) == 0
    assert [score.path.name for score in run.scores] == ["test-1000x0-0-on", "test-2x0-0-on"]

    assert main(["eval", run.name, f"root={tmp_path}", "eval.max_document=2"]) == 2  # an answer begins at the third
    assert says("memexp eval: ", "nothing to score", "eval.max_document=2")(capsys.readouterr().err)


def test_what_is_not_asked_for_is_the_runs_own() -> None:
    own = {"split": "valid", "documents": 3, "max_document": 0, "lanes": 5}
    assert vars(Scored().of(own)) == own | {"split": "test"}
    asked = Rescoring(split="train", documents=0, max_document=9, lanes=1)
    assert vars(asked.of(own)) == {"split": "train", "documents": 0, "max_document": 9, "lanes": 1}


def test_text_has_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is computed for it."""
    monkeypatch.delattr(Head, "best")
    assert score(build("arch=xl"), documents(20)).said is None


@pytest.mark.parametrize(("task", "changes"), [*((task, {}) for task in OPTIONS), ("babi", {"noise": "none"})])
def test_every_task_has_scores_by_length(task: str, changes: dict[str, Any]) -> None:
    """Also those whose documents say nothing of their length, in corpora of any age."""
    drawn = [each for each in task_of(task, documents=[1, 2, 9], **changes) if each.split != "train"]
    texts = [
        TokenDocument(each.id, np.zeros(len(str(each.text).split()), np.uint16), 0, None, each.slices) for each in drawn
    ]
    found = accuracies(texts, [1] * len(texts), np.ones(len(texts), bool))["slices"]["length"]
    own = {str((each.slices or {}).get("length", len(str(each.text).split()) - 1)) for each in drawn}
    assert found.keys() == own


def test_many_lengths_are_rounded_down() -> None:
    texts = [TokenDocument(str(size), np.zeros(1 + size, np.uint16), 0, None, {"pairs": 1}) for size in range(1, 99)]
    found = accuracies(texts, [1] * len(texts), np.ones(len(texts), bool))["slices"]["length"]
    assert {value: each["answers"] for value, each in found.items()} == {
        "1": 1, "2": 2, "4": 4, "8": 8, "16": 16, "32": 32, "64": 35,
    }  # fmt: skip

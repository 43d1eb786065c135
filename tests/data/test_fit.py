"""conf/fit: what a task brings with it, and that whoever chooses data chooses it."""

import re
from dataclasses import replace

import pytest

from memexp.config.checks import remarks
from memexp.config.compose import compose, typed
from memexp.config.introspection import CONF, choices_of, groups_of
from memexp.config.train import TrainConfig
from memexp.data.sources import open_source
from memexp.errors import UserError

from ..messages import says

TASKS = ("babi", "copy", "equations", "mqar", "needle", "passkey", "remember", "retrieval", "reverse", "rewrite")


def settings(*overrides: str) -> TrainConfig:
    config = typed(compose("train", list(overrides)))
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("task", TASKS)
def test_a_step_sees_whole_documents(task: str) -> None:
    config = settings(f"data={task}", "data.source.documents=[100,1,1]")
    read = [document for document in open_source(config.data, CONF) if document.split == "train"]
    inputs = {len(str(document.text).split(" ")) - 1 for document in read}
    assert config.segment * (config.accumulate - 1) < max(inputs) <= config.segment * config.accumulate
    assert config.data.tokenizer.kind == "words"
    assert (config.data.max_document, config.eval.max_document) == (0, 0)
    assert config.eval.documents >= 1000
    assert (config.optim.schedule, config.optim.warmup, config.lanes) == ("constant", 50, 32)


@pytest.mark.hard
def test_segments_are_the_papers() -> None:
    chosen = {task: settings(f"data={task}") for task in TASKS}
    assert {task: (config.segment, config.accumulate) for task, config in chosen.items()} == {
        "copy": (12, 6),
        "reverse": (12, 4),
        "retrieval": (5, 2),
        "equations": (30, 6),
        "mqar": (32, 4),
        "remember": (5, 51),
        "rewrite": (4, 51),
        "passkey": (32, 8),
        "needle": (32, 8),
        "babi": (32, 8),
    }


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("remember", r"[^,]+ ,"),
        ("rewrite", r"[^,]+ ,"),
        ("passkey", r"the pass key is .* is the pass key \."),
        ("needle", r"the number of .*? \."),
    ],
)
def test_a_remark_says_that_segments_cut_what_is_to_be_remembered(task: str, said: str) -> None:
    config = settings("arch=rmt", f"data={task}", "data.source.documents=[1,1,1]")
    document = next(iter(open_source(config.data, CONF)))
    found = re.search(said, str(document.text))
    assert found is not None
    words = len(found.group().split(" "))
    for segment, cut in ((words, False), (words - 1, True)):
        lines = [line.text for line in remarks(replace(config, segment=segment))]
        assert any(f"has {words} words" in line for line in lines) == cut


def test_other_data_have_none_and_what_is_typed_wins() -> None:
    assert settings("data=code") == settings()
    assert settings().accumulate == 1
    config = settings("data=copy", "segment=24", "accumulate=3", "optim.schedule=cosine", "eval.documents=7")
    assert (config.segment, config.accumulate, config.optim.schedule) == (24, 3, "cosine")
    assert config.eval.documents == 7
    assert settings("data=copy", "size=task").size.width == 64


def test_a_fit_is_no_choice_of_its_own() -> None:
    assert set(choices_of("fit")) - {"base_task"} == set(TASKS) <= set(choices_of("data"))
    assert "base_task" not in choices_of("data")
    assert "fit" not in groups_of("train")
    for task in TASKS:  # none of its values is the data's own
        assert set(compose(f"fit/{task}", [])["data"]) == {"max_document"}


@pytest.mark.parametrize("segment", [29, 30])
def test_an_answer_lies_in_one_segment(segment: int) -> None:
    if segment == 30:
        assert settings("data=equations", "segment=30").data.answer == 30
        return
    with pytest.raises(UserError, check=says("segment is 29", "data=equations", "30 tokens", "expected")):
        settings("data=equations", "segment=29")

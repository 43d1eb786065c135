"""Documents that end in their class: what is read and what is scored of them, and which labels are no classes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from memexp.config.groups import Data
from memexp.config.sources import FilesOptions
from memexp.data.classes import for_task
from memexp.data.corpus import Corpus
from memexp.data.lanes import Batch, TrainingLanes, scoring_batches
from memexp.data.library import prepare
from memexp.data.sources import Files
from memexp.errors import UserError

from ..messages import says

Settings = Callable[..., Data]
SPLITS = ("train", "valid", "test")
BYTES = 256


def write(path: Path, labels: list[Any]) -> Path:
    """A row for each label, of different lengths."""
    rows = [{"text": "ab" * (3 + number % 5) + str(number), "party": label} for number, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path, text_data: Settings) -> Data:
    """Twelve rows of two classes; test and validation have documents of both."""
    path = write(tmp_path / "rows.jsonl", [number % 2 == 0 for number in range(12)])
    source = FilesOptions(label="party")
    return text_data(path, source=source, task="classify", valid_documents=3, test_documents=3)


@pytest.fixture
def plain(data: Data, tmp_path: Path) -> Corpus:
    return prepare(data, tmp_path / "root")


def label_of(id: str) -> str:
    """By the number of its line, from 1."""
    return "true" if int(id.rpartition(":")[2]) % 2 else "false"


@pytest.mark.parametrize("longest", [0, 5, 7])
def test_a_document_is_its_first_tokens_and_its_class(data: Data, plain: Corpus, longest: int) -> None:
    found = for_task(plain, replace(data, max_document=longest))
    assert (found.classes, found.vocabulary, found.answers_from) == (("false", "true"), BYTES + 2, BYTES)
    for split in SPLITS:
        for before, document in zip(plain.split(split), found.split(split), strict=True):
            assert document.id == before.id
            assert document.answers is not None
            assert document.tokens[:-1].tolist() == before.tokens[: longest or None].tolist()
            assert found.tokenizer.pieces(document.tokens[-1:]) == [f" {label_of(document.id)}".encode()]
            assert np.flatnonzero(document.answers).tolist() == [len(document.tokens) - 1]
            assert document.scored(0).tolist() == [len(document.tokens) - 1]
    assert found.tokenizer.decode([97, BYTES + 1, 98]) == "a trueb"


def test_without_the_task_nothing_changes(data: Data, plain: Corpus) -> None:
    assert for_task(plain, replace(data, task="predict")) is plain
    assert plain.classes == ()
    assert plain.answers_from == 0
    classified = for_task(plain, data)
    assert (classified.tokens_checksum, classified.tokenizer_hash) == (plain.tokens_checksum, plain.tokenizer_hash)


def check(batches: list[Batch], first: int) -> int:
    """No class among the inputs; scored are classes and nothing else; gives how many were."""
    scored = 0
    for batch in batches:
        assert (batch.tokens_BT < first).all()
        assert ((batch.weight_BT > 0) == (batch.targets_BT >= first)).all()
        assert (batch.valid_BT >= (batch.weight_BT > 0)).all()
        scored += int(batch.weight_BT.sum())
    return scored


@pytest.mark.parametrize("segment", [1, 3, 4, 64])
def test_a_class_is_said_and_never_read(data: Data, plain: Corpus, segment: int) -> None:
    """For a document of any number of segments, also one that ends with a segment."""
    found = for_task(plain, data)
    documents = found.split("train")
    batches = list(scoring_batches(documents, lanes=2, segment=segment, max_document=0))
    assert check(batches, found.answers_from) == len(documents)
    lanes = TrainingLanes(documents, lanes=2, segment=segment, seed=0, max_document=0)
    seen: list[Batch] = []
    while lanes.epoch < 2:
        seen.append(next(lanes))
    assert check(seen, found.answers_from) >= len(documents)
    for batch in seen:  # in its last segment, with text in front of it
        for lane in np.flatnonzero(batch.weight_BT.sum(-1)):
            text = documents[batch.document_B[lane]].tokens[:-1]
            at = int(np.flatnonzero(batch.weight_BT[lane])[0])
            assert batch.tokens_BT[lane, at] == text[-1]
            assert batch.offset_B[lane] + at == len(text) - 1


def test_a_crop_of_the_longest_length_is_no_crop(data: Data, plain: Corpus) -> None:
    found = for_task(plain, replace(data, max_document=5))
    lanes = TrainingLanes(found.split("train"), lanes=1, segment=5, seed=0, max_document=5)
    assert check([next(lanes) for _ in range(12)], found.answers_from) == 12


# ------------------------------------------------------------------------------------------ bad input


def refuses(data: Data, root: Path, *words: str) -> None:
    """Checks that the task ends with one line that has all of these words in it."""
    with pytest.raises(UserError, check=says(*words)):
        for_task(prepare(data, root), data)


def test_documents_without_a_label_are_refused(data: Data, tmp_path: Path) -> None:
    unlabelled = replace(data, source=FilesOptions())
    seen = "12 of 12 documents of data=text", "no label", "such as rows.jsonl:"
    refuses(unlabelled, tmp_path, *seen, "data.source.label=FIELD")


def test_one_class_is_refused(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ["left"] * 12)
    refuses(data, tmp_path, "all documents of data=text", "class 'left'", "expected at least two")


def test_a_class_that_training_does_not_show_is_refused(data: Data, plain: Corpus, tmp_path: Path) -> None:
    (held_out, *_) = plain.split("valid")
    labels: list[Any] = [number % 2 == 0 for number in range(12)]
    labels[int(held_out.id.rpartition(":")[2]) - 1] = "True"
    # Which side a document is on hangs on its name alone.
    write(tmp_path / "rows.jsonl", labels)
    refuses(data, tmp_path, "the valid split of data=text", "class 'True'", "no training document")


@pytest.mark.parametrize(
    ("label", "seen"),
    [(1.5, "'party' of type float"), (["left"], "'party' of type list"), (None, "nothing in 'party'")],
)
def test_a_label_that_is_no_class_is_refused(label: Any, seen: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ["left", label])
    with pytest.raises(UserError, check=says("rows.jsonl, line 2", seen, "expected", "data.source.label")):
        list(Files(FilesOptions(label="party"), str(path)))


def test_labels_of_rows_are_text(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "party": [True, False]}), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["c", "d"], "party": [3, 0]}), tmp_path / "b.parquet")
    write(tmp_path / "c.jsonl", ["left"])
    found = [document.label for document in Files(FilesOptions(label="party"), str(tmp_path))]
    assert found == ["true", "false", "3", "0", "left"]
    assert [document.label for document in Files(FilesOptions(), str(tmp_path))] == [None] * 5
    names = [Files(FilesOptions(label=label), str(tmp_path)).identity() for label in ("party", "text", None)]
    assert names[0] != names[1]
    assert "label" not in names[2]

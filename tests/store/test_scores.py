"""What a score is called in words, and commands that name the root of a run."""

from pathlib import Path

import pytest

from memexp.config.groups import Scored, Scoring
from memexp.files import find_root
from memexp.store.folder import Run, command_in, eval_command
from memexp.store.scores import describe


@pytest.mark.parametrize(
    ("documents", "max_document", "words"),
    [
        (8, 8192, "test, first 8 documents, first 8,192 tokens of each"),
        (1, 32768, "test, first document, first 32,768 tokens"),
        (0, 0, "test, all documents, whole"),
    ],
)
def test_the_documents_of_a_score(documents: int, max_document: int, words: str) -> None:
    assert describe(Scoring("test", documents, max_document)) == words


@pytest.mark.parametrize("old", ["", " root=/old", " root='/an old place'", " 'root=/an old place'", " root=."])
def test_a_command_names_the_root_in_which_its_runs_are(old: str, tmp_path: Path) -> None:
    command = f"memexp train{old} arch=knn 'tag=two words'"
    here = tmp_path / "a new place"
    assert command_in(here, command) == f"memexp train arch=knn 'tag=two words' 'root={here}'"
    for default in (find_root(None), None):
        assert command_in(default, command) == "memexp train arch=knn 'tag=two words'"


def test_what_is_no_command_stays_as_it_is(tmp_path: Path) -> None:
    assert command_in(tmp_path, "memexp train tag='") == "memexp train tag='"


def test_the_root_of_a_run_is_where_it_is_now(tmp_path: Path) -> None:
    assert Run(tmp_path / "results" / "runs" / "knn").root == tmp_path
    assert Run(tmp_path / "runs" / "knn").root is None
    assert eval_command("knn", Scored(), root=tmp_path).endswith(f" root={tmp_path}")

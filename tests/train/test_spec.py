"""A command looks up what a run is made of once, at its top, and builds its model once before it trains."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from memexp.cli.main import main
from memexp.data.corpus import Corpus, open_corpus
from memexp.data.library import prepare
from memexp.model.build import build_model
from memexp.store.folder import Run, find_run
from memexp.store.identity import identify, read_identity, run_folder, trained_settings
from memexp.train.loop import update
from memexp.train.spec import specify

from ..tiny import TINY, configure
from .conftest import Train


@contextmanager
def watched(*functions: Callable[..., Any]) -> Iterator[list[str]]:
    """The names of these functions in the order in which they returned, whatever name they were called by.

    Of a model that was built also the device it is on.
    """
    names = {function.__code__: function.__name__ for function in functions}
    seen: list[str] = []

    def look(frame: FrameType, event: str, result: Any) -> None:
        if event != "return" or frame.f_code not in names:
            return
        name = names[frame.f_code]
        seen.append(f"{name} on {next(result.parameters()).device}" if isinstance(result, torch.nn.Module) else name)

    sys.setprofile(look)
    try:
        yield seen
    finally:
        sys.setprofile(None)


LOOKED_UP = (prepare, find_run, identify, run_folder, build_model, trained_settings)
FOLDERS = ["run_folder"] * 2
"""A run that was not begun is looked for in both precisions."""


def test_all_is_looked_up_once_and_before_the_first_step(root: Path) -> None:
    with watched(*LOOKED_UP, update) as seen:
        assert main(["train", *TINY, f"root={root}"]) == 0
    first = seen.index("update")
    assert sorted(seen[:first]) == ["build_model on cpu", "build_model on meta", "identify", "prepare", *FOLDERS]
    # a score is of the weights that are kept, so they are read back from their file
    assert seen[first:] == ["update"] * 4 + ["build_model on meta", "build_model on cpu"]


def test_a_run_that_is_done_builds_and_asks_for_nothing(root: Path) -> None:
    words = ["train", *TINY, f"root={root}"]
    assert main(words) == 0
    with watched(*LOOKED_UP, read_identity, open_corpus) as seen:
        assert main(words) == 0
    assert sorted(seen) == ["build_model on meta", "identify", "open_corpus", "prepare", "run_folder"]


@pytest.mark.hard
def test_the_run_that_weights_come_from_is_handed_on(run: Train, root: Path) -> None:
    source = run("steps=1")
    with watched(*LOOKED_UP, update) as seen:
        assert main(["train", *TINY, f"root={root}", "arch=knn", f"init_from={source.name}"]) == 0
    assert seen.count("identify") == 1
    assert seen[: seen.index("update")].count("build_model on cpu") == 1


@pytest.mark.hard
def test_a_profile_asks_no_more_than_a_run_does(root: Path) -> None:
    with watched(*LOOKED_UP) as seen:
        assert main(["train", *TINY, "profile=true", f"root={root}"]) == 0
    assert sorted(seen) == ["build_model on cpu", "build_model on meta", "identify", "prepare", *FOLDERS]


def test_a_score_of_a_run_that_is_done_reads_its_settings_once(run: Train, root: Path) -> None:
    done = run("steps=1")
    with watched(*LOOKED_UP, Run.config.fget, open_corpus) as seen:  # type: ignore[arg-type]
        assert main(["eval", done.name, "device=cpu", f"root={root}"]) == 0
    assert sorted(seen) == [
        "build_model on cpu",
        "build_model on meta",
        "config",
        "find_run",
        "open_corpus",
        "trained_settings",
    ]


@pytest.mark.parametrize("by", ["name", "path"])
def test_a_start_is_the_same_however_it_is_named(by: str, run: Train, corpus: Corpus, root: Path) -> None:
    source = run("steps=1")
    config = configure("arch=knn", f"init_from={getattr(source, by)}")
    spec = specify(config, corpus, root)
    assert spec.start == Run(source.path.resolve())
    assert spec.identity == identify(config, corpus, root)
    assert spec.run == run_folder(config, spec.identity, root)
    assert spec.config is config

"""Settings besides the memory in which the runs of a difference differ: terminal, page and file name every one."""

import io
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from memexp.config.arch import ARCHS
from memexp.config.groups import Scored
from memexp.config.introspection import flatten
from memexp.files import as_json, fingerprint
from memexp.report.difference.breakdown import break_down
from memexp.report.difference.files import summary
from memexp.report.difference.page import page
from memexp.report.difference.settings import differing, told
from memexp.report.difference.terminal import to_terminal
from memexp.report.difference.token_text import Wording, numbers
from memexp.report.difference.tokens import Difference, difference
from memexp.store.folder import Run
from memexp.store.identity import result_settings
from memexp.store.scores import find_score, load_scores

from ...tiny import configure


def two(fakes: Any, settings: dict[str, Any], *, arch: str = "knn", before: dict[str, Any] | None = None) -> Difference:
    """The difference of two runs of an architecture, the second with other settings."""
    whole = asdict(configure(f"arch={arch}"))
    for name, changes in (("a", before or {}), ("b", settings)):
        run = fakes.run(name, arch=arch, mem=512)
        config = yaml.safe_load(yaml.safe_dump(whole)) | {"eval": run.config["eval"], "mem": 512}
        put(config, changes)
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        fakes.score(run, 2.0 if name == "a" else 1.5)
    return paired(fakes)


def put(config: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        *groups, last = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value


def paired(fakes: Any) -> Difference:
    return difference(*(load_scores(*find_score(fakes.root, name, Scored())) for name in "ab"))


def shown(diff: Difference) -> tuple[str, str, dict[str, Any]]:
    """What the terminal, the page and summary.json say."""
    wording = Wording(["x"] * len(diff.gain_N), np.zeros(len(diff.gain_N), dtype=np.int64))
    breakdown = break_down(diff, wording.kind_N, None)
    screen = Console(file=io.StringIO(), width=300)
    screen.print(to_terminal(diff, breakdown, numbers, top=1))
    told_all = summary(diff, breakdown)
    return screen.file.getvalue(), page(diff, told_all, breakdown, wording), told_all  # type: ignore[attr-defined]


def test_a_run_of_twenty_steps_is_not_compared_in_silence(fakes: Any) -> None:
    fakes.score(fakes.run("a", mem=512, settings={"steps": 20, "optim.rate": 0.01}, summary={"tokens": 10_240}), 3.0)
    fakes.score(fakes.run("b", mem=512), 1.5)
    screen, html, numbers_of = shown(paired(fakes))
    for text in (screen, html):
        assert "differ in 2 settings besides the memory" in text
        assert "trained on 10,240 tokens" in text
        assert "trained on 699,904 tokens" in text
        for word in ("steps", "1,367", "optim.rate", "0.01", "0.003"):
            assert word in text
    assert numbers_of["settings"] == {"steps": {"a": 20, "b": 1367}, "optim.rate": {"a": 0.01, "b": 0.003}}
    assert (numbers_of["a"]["trained_tokens"], numbers_of["b"]["trained_tokens"]) == (10_240, 699_904)


def test_where_only_the_memory_differs_nothing_else_is_named(fakes: Any) -> None:
    fakes.score(fakes.run("a", mem=512), 2.0)
    fakes.score(fakes.run("b", mem=1024), 1.5)
    screen, html, numbers_of = shown(paired(fakes))
    assert numbers_of["settings"] == {}
    for text in (screen, html):
        assert "A and B differ in no setting besides the memory" in text


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, 7] if isinstance(value, list) else f"{value}x"


@pytest.mark.parametrize("arch", sorted(ARCHS))
def test_every_setting_of_the_result_is_named(arch: str, fakes: Any) -> None:
    """All that a run's identity holds, and what makes its corpus, at once; then each is found by its name."""
    config = asdict(configure(f"arch={arch}"))
    determining = {
        name: value for name, value in flatten(result_settings(config)).items() if not name.startswith("softmax")
    }
    determining |= {
        f"data.{name}": value
        for name, value in flatten(config["data"]).items()
        if name not in ("name", "source._target_")
    }
    determining |= {"size.cutoffs": [], "size.narrowing": 1}
    settings = {
        name: changed(value)
        for name, value in determining.items()
        if name not in ("mem", "arch.name", "arch._target_", "revisions") and not isinstance(value, dict)
    }
    found = differing(two(fakes, settings, arch=arch))
    assert settings.keys() <= found.keys()
    assert len(settings) > 30


def test_what_changes_no_result_is_not_named(fakes: Any) -> None:
    config = asdict(configure("arch=knn"))
    names = (
        "device",
        "threads",
        "tag",
        "log_every",
        "recompute",
        "compile",
        "tracker.project",
        "eval.split",
        "size.name",
        "arch.stored_on",
    )
    assert differing(two(fakes, {name: changed(flatten(config)[name]) for name in names if name != "eval.split"})) == {}


def test_revisions_and_other_architectures_are_named(fakes: Any) -> None:
    fakes.score(fakes.run("a", arch="xl", mem=64), 2.0)
    run = fakes.run("b", mem=512)
    fakes.score(run, 1.5)
    identity = {**Run(run.path).identity, "revisions": ["published-recall"]}
    identity.pop("hash")
    (run.path / "identity.json").write_bytes(as_json(identity | {"hash": fingerprint(identity)}))
    found = differing(paired(fakes))
    assert found["arch.name"] == ("xl", "knn")
    assert found["revisions"] == ([], ["published-recall"])
    assert "arch.neighbours" not in found  # only one of them has it
    assert [told(value) for value in (1367, 0.003, True, None, [1, 2], [])] == [
        "1,367",
        "0.003",
        "true",
        "none",
        "1, 2",
        "none",
    ]

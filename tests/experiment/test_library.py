"""Which runs count as a cell's: by their settings, the run they started from and the corpus they read."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from memexp.config.compose import compose, typed
from memexp.experiment import library as matching
from memexp.experiment.cells import cells
from memexp.experiment.definition import Column, Experiment, Row, load
from memexp.experiment.library import Library
from memexp.experiment.settings import Wanted
from memexp.experiment.settings import wanted as compose_cells
from memexp.files import fingerprint, write_json
from memexp.store.folder import Run
from memexp.store.identity import read_identity

from ..messages import says
from .conftest import CORPUS, Make, only_copies


def test_cells_are_what_train_composes(rows: dict[str, Wanted]) -> None:
    settings = rows["more"].settings
    assert (settings.arch.name, settings.mem, settings.lanes, settings.steps, settings.size.name) == (
        "knn", 128, 4, 3, "tiny"
    )  # fmt: skip
    assert rows["more"].start == rows["memory"]
    assert rows["tested"].result == rows["memory"].result
    assert [row.score.folder for row in rows.values()] == [
        "test-2x64-0-on", "test-2x64-128-on", "test-2x64-64-on", "test-2x64-128-on"
    ]  # fmt: skip


@pytest.mark.parametrize("overrides", [("data=copy", "arch=rmt"), ("data=wiki_markup", "arch=knn", "size=small")])
def test_a_shortcut_composes_what_hydra_does(experiment: Experiment, overrides: tuple[str, ...]) -> None:
    chosen = dict(word.split("=") for word in overrides)
    experiment.rows = {"one": Row(set={"arch": chosen["arch"], "segment": 128})}
    experiment.columns = {"Letters": Column(small={name: chosen[name] for name in chosen if name != "arch"})}
    [one] = compose_cells(cells(experiment, "small", seeds=[3]))
    assert one.settings == typed(compose("train", one.cell.overrides))


@pytest.mark.parametrize("name", ["memorizing/table5", "rmt/wikitext103"])
def test_settings_of_a_corpus_and_of_a_row_come_together(name: str) -> None:
    for cell in [one for one in cells(load(name), "small") if one.seed == 0][1:4:2]:
        [one] = compose_cells([cell])
        assert one.settings == typed(compose("train", one.cell.overrides))


def test_a_run_counts_by_its_settings_not_by_its_folder(rows: dict[str, Wanted], make: Make, tmp_path: Path) -> None:
    wanted = rows["plain"]
    run = make(wanted, tag="another", log_every=3, threads=1, name="abcdef01")
    make(wanted, steps=6)
    make(wanted, done=False, name="00000000")
    library = Library(tmp_path)
    assert library.runs(wanted) == [run]
    assert library.score(wanted) == (run, run.scores[0])
    assert library.unfinished(wanted) is not None
    assert library.seeds(wanted) == {0}


def test_a_setting_newer_than_the_run_has_its_default(rows: dict[str, Wanted], make: Make, tmp_path: Path) -> None:
    run = make(rows["plain"])
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    del config["recompute"], config["arch"]["normalise"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    assert Library(tmp_path).runs(rows["plain"]) == [run]


def test_a_score_of_another_memory_is_of_the_same_run(rows: dict[str, Wanted], make: Make, tmp_path: Path) -> None:
    run = make(rows["memory"])
    library = Library(tmp_path)
    assert library.runs(rows["tested"]) == [run]
    assert library.score(rows["tested"]) is None
    make(rows["tested"])
    assert library.score(rows["tested"]) == (run, run.scores[0])


def test_a_run_that_started_elsewhere_does_not_count(rows: dict[str, Wanted], make: Make, tmp_path: Path) -> None:
    start, other = make(rows["memory"]), make(rows["memory"], steps=9, name="99999999")
    make(rows["more"], start=other)
    assert Library(tmp_path).runs(rows["more"]) == []
    run = make(rows["more"], start=start, name="77777777")
    assert Library(tmp_path).runs(rows["more"]) == [run]
    assert Library(tmp_path).runs(rows["memory"]) == [start]


def test_a_run_of_another_corpus_does_not_count_and_its_light_copy_is_foreign(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = make(rows["plain"]), tmp_path / "data"
    manifest: dict[str, Any] = {
        "files": {"tokens.bin": {"sha256": "f" * 64}, "documents.json": {"sha256": "2" * 64}},
        "tokenizer": {"hash": "3" * 64},
    }
    write_json(here / "manifest.json", manifest)
    monkeypatch.setattr(matching, "prepared", lambda data, root: here)
    assert Library(tmp_path).runs(rows["plain"]) == []
    manifest["files"]["tokens.bin"]["sha256"] = CORPUS["tokens_checksum"]
    write_json(here / "manifest.json", manifest)
    assert Library(tmp_path).runs(rows["plain"]) == [run]
    [kept] = only_copies(tmp_path)
    manifest["files"]["tokens.bin"]["sha256"] = "f" * 64
    write_json(here / "manifest.json", manifest)
    library = Library(tmp_path)
    assert library.runs(rows["plain"]) == []
    assert library.score(rows["plain"]) is None
    assert library.foreign_score(rows["plain"]) == (kept, kept.scores[0])


def test_a_run_of_another_version_is_left_out_and_named(rows: dict[str, Wanted], make: Make, tmp_path: Path) -> None:
    run = make(rows["plain"])
    config = yaml.safe_load((run.path / "config.yaml").read_text()) | {"of_the_future": 1}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    library = Library(tmp_path)
    assert library.runs(rows["plain"]) == []
    [line] = library.left_out
    assert says(run.name, "of_the_future")(line)


def as_before(run: Run) -> Run:
    """Makes a run one that was trained before all revisions: it has neither their names nor their settings."""
    content = {name: value for name, value in read_identity(run).items() if name not in ("hash", "revisions")}
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    for setting in ("momentum", "factor_from"):
        content["optim"].pop(setting, None)
        del config["optim"][setting]
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(run.path / "identity.json", content | {"hash": fingerprint(content)})
    return run


@pytest.mark.parametrize("copied", [False, True])
def test_a_run_from_before_a_revision_is_no_run_of_the_cell(
    experiment: Experiment, make: Make, tmp_path: Path, copied: bool
) -> None:
    experiment.rows = {"adamw": Row(set={"arch": "vanilla", "segment": 128}), "adafactor": Row(set={"arch": "vanilla"})}
    experiment.rows["adafactor"].set |= {"segment": 128, "optim": "adafactor"}
    adamw, adafactor = compose_cells(cells(experiment, "small", data=["tiny"], seeds=[0]))
    plain = make(adamw, name="0000aaaa")
    as_before(make(adafactor, name="0000bbbb"))
    as_before(make(adafactor, name="0000cccc", steps=9))
    if copied:
        [plain, *_] = only_copies(tmp_path)
    library = Library(tmp_path)
    assert library.runs(adafactor) == []
    assert library.score(adafactor) is None
    assert library.with_weights(adafactor) is None
    assert [revision.name for revision in library.made_before(adafactor)] == ["adafactor-as-published"]
    assert library.runs(adamw) == [plain]
    assert library.made_before(adamw) == []
    again = make(adafactor, name="0000dddd")
    library.forget()
    assert library.runs(adafactor) == [again]


def test_an_unfinished_run_from_before_a_revision_is_not_continued(
    experiment: Experiment, make: Make, tmp_path: Path
) -> None:
    experiment.rows = {"adafactor": Row(set={"arch": "vanilla", "segment": 128, "optim": "adafactor"})}
    [adafactor] = compose_cells(cells(experiment, "small", data=["tiny"], seeds=[0]))
    run = make(adafactor, done=False)
    assert Library(tmp_path).unfinished(adafactor) == run
    as_before(run)
    assert Library(tmp_path).unfinished(adafactor) is None
    assert Library(tmp_path).made_before(adafactor) == []


def test_a_run_with_a_revision_of_a_newer_version_does_not_count(
    rows: dict[str, Wanted], make: Make, tmp_path: Path
) -> None:
    run = make(rows["plain"])
    assert Library(tmp_path).runs(rows["plain"]) == [run]
    content = read_identity(run) | {"revisions": ["of-the-future"]}
    del content["hash"]
    write_json(run.path / "identity.json", content | {"hash": fingerprint(content)})
    assert Library(tmp_path).runs(rows["plain"]) == []

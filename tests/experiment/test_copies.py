"""Light copies: what is kept of a run, that none is lost or half written, and that those in the repository are as they were."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from memexp.cli.main import main
from memexp.config.commands import ReproduceConfig
from memexp.errors import UserError
from memexp.experiment.cells import cells
from memexp.experiment.definition import Experiment, experiments, load
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable
from memexp.experiment.published import Published
from memexp.experiment.queue import Work
from memexp.experiment.settings import Wanted
from memexp.experiment.settings import wanted as compose_cells
from memexp.files import fingerprint, rewrite, write_json, write_sealed
from memexp.store import archive
from memexp.store.archive import LightCopy, documents_of, keep, light_copies, line_of, positions_of
from memexp.store.identity import read_identity
from memexp.store.scores import read_run_summary, read_summary
from memexp.store.select import select_runs

from ..messages import says
from .conftest import Make, only_copies

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the copies of the first table lie."""
    return tmp_path / "results" / "tiny" / "table1" / "runs.jsonl"


def test_a_light_copy_has_all_but_weights_and_tokens(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path
) -> None:
    run = make(rows["plain"])
    [score] = run.scores
    np.save(score.path / "token_nats.npy", np.arange(5, dtype=np.float32))
    np.save(score.path / "tokens.npy", np.arange(5))
    write_json(score.path / "documents.json", [{"id": "a", "tokens": 2}, {"id": "b", "tokens": 3}])
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["arch"]["mem_is"] = "none"  # a setting that there is no more
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    keep([run], tmp_path, "tiny/table1")
    [kept] = light_copies(file)
    assert kept.path == file / run.name
    assert kept.saved_config == config
    assert "mem_is" not in kept.config["arch"]
    assert (kept.config, kept.identity, kept.metrics) == (run.config, run.identity, run.metrics)
    assert kept.summary == run.summary
    assert [one.name for one in kept.scores] == [score.name]
    assert kept.scores[0].summary == score.summary
    assert documents_of(kept.scores[0]) == [
        {"id": "a", "tokens": 2, "nats": 1.0},
        {"id": "b", "tokens": 3, "nats": 9.0},
    ]
    keep([run], tmp_path, "tiny/table2")  # tables that share a run have one copy
    assert not (tmp_path / "results" / "tiny" / "table2").exists()
    library = Library(tmp_path)
    assert library.with_weights(rows["plain"]) == run
    shutil.rmtree(run.path)
    library.forget()
    assert library.with_weights(rows["plain"]) is None
    assert library.score(rows["plain"]) == (kept, kept.scores[0])
    keep([kept], tmp_path, "tiny/table2")
    assert not (tmp_path / "results" / "tiny" / "table2").exists()


def test_copies_are_sorted_and_their_parts_in_order(rows: dict[str, Wanted], make: Make, file: Path) -> None:
    runs = [make(rows["plain"], name="bbbbbbbb"), make(rows["memory"]), make(rows["plain"], name="aaaaaaaa", steps=9)]
    root = file.parents[3]
    for run in runs:  # one after another
        keep([run], root, "tiny/table1")
    lines = file.read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == sorted(run.name for run in runs)
    keys = ["run", "config", "identity", "metrics", "summary", "eval", "checksum"]
    assert [list(json.loads(line)) for line in lines] == [keys] * 3


def test_a_copy_that_another_process_adds_meanwhile_stays(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = make(rows["plain"]), make(rows["memory"])

    def late(path: Path, change: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{line_of(theirs)}\n")
        rewrite(path, change)  # type: ignore[arg-type]

    monkeypatch.setattr(archive, "rewrite", late)
    keep([ours], tmp_path, "tiny/table1")
    assert {copy.name for copy in light_copies(file)} == {ours.name, theirs.name}


def test_the_file_is_as_it_was_when_the_disk_is_full(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep([make(rows["memory"])], tmp_path, "tiny/table1")
    before, another = file.read_bytes(), make(rows["plain"])

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, check=says(str(file), "No space left on device")):
        keep([another], tmp_path, "tiny/table1")
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", "runs.jsonl"]


def test_a_copy_follows_what_is_scored_again(rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path) -> None:
    run = make(rows["plain"])
    [score] = run.scores
    keep([run], tmp_path, "tiny/table1")
    write_json(score.path / "documents.json", [{"id": "a", "tokens": 5, "nats": 9.0}])
    write_sealed(score.path / "summary.json", score.summary | {"perplexity": 9.0})
    keep([run], tmp_path, "tiny/table1")
    [again] = light_copies(file)
    assert again.scores[0].summary["perplexity"] == 9.0
    assert again.scores[0].documents[0]["nats"] == 9.0


def test_a_copy_keeps_losses_by_position_when_those_of_tokens_are_deleted(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path
) -> None:
    """But not those of a score of other documents or losses."""
    run = make(rows["plain"])
    [score] = run.scores
    np.save(score.path / "token_nats.npy", np.arange(600, dtype=np.float32))
    write_json(score.path / "documents.json", [{"id": "a", "tokens": 600, "nats": 179700.0}])
    keep([run], tmp_path, "tiny/table1")
    before = file.read_bytes()
    assert set(positions_of(light_copies(file)[0].scores[0])) == {"512", "1024"}
    (score.path / "token_nats.npy").unlink()
    keep([run], tmp_path, "tiny/table1")
    assert file.read_bytes() == before
    write_json(score.path / "documents.json", [{"id": "a", "tokens": 600, "nats": 9.0}])
    keep([run], tmp_path, "tiny/table1")
    [again] = light_copies(file)
    assert positions_of(again.scores[0]) == {}
    assert again.scores[0].documents[0]["nats"] == 9.0


def test_a_run_that_cannot_be_copied_is_skipped_with_a_warning(
    rows: dict[str, Wanted],
    experiment: Experiment,
    make: Make,
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its old copy stays, and the other runs are copied."""
    damaged, other = make(rows["plain"]), make(rows["memory"])
    keep([damaged], tmp_path, "tiny/table1")
    [before] = light_copies(file)
    path = damaged.scores[0].path / "token_nats.npy"
    path.write_bytes(b"\x93NUMPY")
    table = PaperTable(experiment, "small", {"Letters": "tiny"}, [rows["plain"], rows["memory"]], Published())
    work = Work(table, Library(tmp_path), ReproduceConfig())
    work.keep()
    work.keep()  # as after each job
    [kept] = [copy for copy in light_copies(file) if copy.name == damaged.name]
    assert kept.line == before.line
    assert {copy.name for copy in light_copies(file)} == {damaged.name, other.name}
    [warning] = capsys.readouterr().err.splitlines()
    assert says(f"warning: no new light copy of {damaged.name}", str(path), "expected")(warning)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"loss": 3.0', '"loss": 2.0', "checksum"),
        ('"tokens": 10', '"tokens": 11', "checksum"),
        ('"config": {', '"config": ', "expected JSON"),
    ],
)
def test_an_edited_copy_is_left_out_and_named(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path, before: str, after: str, words: str
) -> None:
    run, other = make(rows["plain"]), make(rows["memory"])
    only_copies(tmp_path)
    *others, line = file.read_text().splitlines()
    assert before in line
    file.write_text("\n".join([*others, line.replace(before, after)]) + "\n")
    library = Library(tmp_path)
    assert library.score(rows["plain"]) is None
    [problem] = library.left_out
    assert says(f"{file / run.name}", words)(problem)
    assert [one.name for one in library.runs(rows["memory"])] == [other.name]


def test_a_file_that_git_could_not_merge_is_refused(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path
) -> None:
    make(rows["plain"])
    only_copies(tmp_path)
    file.write_text(f"<<<<<<< HEAD\n{file.read_text()}")
    with pytest.raises(UserError, check=says(f"line 1 of {file}", "'<<<<<<< HEAD'", "expected", "merged")):
        Library(tmp_path).score(rows["plain"])


def test_a_run_that_stands_twice_is_refused(rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path) -> None:
    make(rows["plain"])
    only_copies(tmp_path)
    file.write_text(2 * file.read_text())
    with pytest.raises(UserError, check=says(f"line 2 of {file}", "vanilla-tiny-mem0-s0-12345678", "expected")):
        light_copies(file)


def test_copies_are_named_by_file_by_line_or_by_name(
    rows: dict[str, Wanted], make: Make, tmp_path: Path, file: Path
) -> None:
    runs = [make(rows["memory"], tag="a"), make(rows["plain"], tag="b")]
    copies = only_copies(tmp_path)
    assert [copy.name for copy in copies] == [run.name for run in runs]
    assert select_runs(tmp_path, [str(file)]) == copies
    assert select_runs(tmp_path, [str(file)], tag="b") == copies[1:]
    assert select_runs(tmp_path, [f"{file}/vanilla-tiny"]) == copies[1:]
    assert select_runs(tmp_path, ["knn-tiny", copies[1].name]) == copies
    whole = make(rows["plain"])
    assert select_runs(tmp_path) == [whole]  # nobody asked for copies
    assert select_runs(tmp_path, [whole.name]) == [whole]
    with pytest.raises(UserError, check=says("no run 'vanila'", str(file), "2 runs")):
        select_runs(tmp_path, [f"{file}/vanila"])
    with pytest.raises(UserError, check=says("elsewhere/runs.jsonl", "expected")):
        select_runs(tmp_path, ["elsewhere/runs.jsonl/a"])


FILES = sorted((CHECKOUT / "results").glob("**/runs.jsonl"))
COPIES = [copy for file in FILES for copy in light_copies(file)]


def test_the_copies_in_the_repository_are_as_they_were_written() -> None:
    """The seal of each line, summary and identity, and that run and folder names say what they hold."""
    scores = [(copy, score) for copy in COPIES for score in copy.scores]
    assert (len(FILES), len(COPIES), len(scores)) == (34, 507, 601)
    for copy in COPIES:
        content = {name: value for name, value in copy.content.items() if name != "checksum"}
        assert "checksum" in json.loads(copy.line)
        assert json.loads(copy.line)["checksum"] == fingerprint(content)
        identity = read_identity(copy)
        assert copy.name.endswith(identity["hash"][:8])
        summary = read_run_summary(copy)
        assert summary is not None
        assert (summary["run"], summary["config_hash"]) == (copy.name, identity["hash"])
    for copy, score in scores:
        assert score.name is not None
        summary = read_summary(score)
        assert (summary["run"], summary["mem"], summary["memory"]) == (copy.name, score.name.mem, score.name.memory)
        rows = documents_of(score)
        assert not rows or sum(row["tokens"] for row in rows) == summary["tokens"]
        assert not rows or sum(row["nats"] for row in rows) / summary["tokens"] == pytest.approx(
            summary["nats_per_token"], rel=1e-6
        )


DONE = {
    "armt/babi": {
        "QA1, facts alone": 8,
        **{f"QA1, {words} words": 8 for words in (256, 512, 4096)},
        "QA2, facts alone": 8,
        **{f"QA2, {words} words": 4 for words in (256, 512, 4096)},
    },
    "armt/remember": {f"{pairs} pairs": 3 for pairs in (5, 10, 20, 50, 100, 200)},
    "armt/rewrite": {f"{writes} writes": 11 for writes in (5, 10, 20, 50, 100, 200, 500)},
    "blockrecurrent/ablations": {"GitHub (tokens)": 8},
    "blockrecurrent/borrowed": {"GitHub (tokens)": 24},
    "blockrecurrent/table1": {"GitHub (tokens)": 26},
    "delta/mqar": {f"{pairs} pairs": 15 for pairs in (4, 8, 16)},
    "infini/table2": {"arXiv-math": 10, "PG19": 5},
    "memorizing/figure1": {"arXiv Math": 1, "arXiv Math, on code": 2},
    "memorizing/figure6": {"arXiv Math": 1, "arXiv Math, on code": 14},
    "memorizing/held_out": {"GitHub": 3, "Isabelle": 10},
    "memorizing/larger_memory": {"GitHub": 24},
    "memorizing/longer": {"1/10 of the steps": 6, "3/10 of the steps": 3},
    "memorizing/per_token": {},
    "memorizing/table14": {},
    "memorizing/table15": {"arXiv Math, on code": 2},
    "memorizing/table16": {"arXiv Math, on code": 4},
    "memorizing/table4": {"arXiv Math": 4, "PG19": 4, "C4(4K+)": 4, "GitHub": 20, "Isabelle": 20},
    "memorizing/table5": {},
    "rmt/algorithmic": {"Copy 24": 18},
    "rmt/enwik8": {"enwik8": 30},
    "rmt/equations": {"Quadratic equations": 3},
    "rmt/hyperpartisan": {},
    "rmt/wikitext103": {"WikiText-103": 5},
    "thought/ablation": {"WikiText": 10},
}
"""How many cells of each column the copies in the repository filled when they were made."""


@pytest.fixture
def only_committed(tmp_path: Path) -> Path:
    """A root with the copies of the repository, without corpora and without runs, which could be other ones."""
    for file in FILES:
        place = tmp_path / file.relative_to(CHECKOUT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [name if name == "memorizing/table4" else pytest.param(name, marks=pytest.mark.hard) for name in DONE],
)
def test_the_copies_in_the_repository_fill_their_cells(name: str, only_committed: Path) -> None:
    library = Library(only_committed)
    done = Counter(
        one.cell.column
        for one in compose_cells(cells(load(name), "small"))
        if (found := library.score(one)) and isinstance(found[0], LightCopy)
    )
    assert (done, library.left_out) == (DONE[name], [])


def words_of(path: Path) -> list[str]:
    """The words of `memexp table` that wrote an experiment's table; its file is named after the columns' data."""
    name, parts = path.parent.relative_to(CHECKOUT / "results"), path.stem.split("-")[1:]
    known, data = (
        {column.small.get("data.name", column.small.get("data")) for column in load(str(name)).columns.values()},
        [],
    )
    while parts:
        count = next(many for many in range(len(parts), 0, -1) if "-".join(parts[:many]) in known)
        data, parts = [*data, "-".join(parts[:count])], parts[count:]
    return [str(name), *([f"data={','.join(data)}"] if data else [])]


TABLES = {
    "demo/demo": ["eval.documents=8"],
    "recurrence/from-xl": ["eval.documents=8"],  # of runs that started from others
    "tasks/long": ["metric=accuracy", "by=length"],  # the same of answers
} | {
    str(path.relative_to(CHECKOUT / "results").with_suffix("")): words_of(path)
    for path in sorted((CHECKOUT / "results").glob("*/*/small*.md"))
    if path.parent.parent.name != "checkpoints"  # whose weights are not here
}
"""Words of `memexp table` that made a table, but for the runs where it is of runs."""
QUICK = ("demo/demo", "recurrence/from-xl", "tasks/long", "rmt/equations/small")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.hard) for name in TABLES]
)
def test_the_tables_in_the_repository_are_those_of_their_copies(
    name: str, only_committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this fails after a wanted change of the format, write the table again with `memexp table` and out=DIR."""
    path = CHECKOUT / "results" / f"{name}.md"
    written, words = path.read_text(encoding="utf-8"), TABLES[name]
    runs = [] if "/" in words[0] else re.findall(r"^- ([\w-]+-[0-9a-f]{8})", written, re.MULTILINE)
    out = only_committed / "out"
    assert main(["table", *dict.fromkeys(runs), *words, f"root={only_committed}", f"out={out}"]) == 0
    file = out / (f"{path.stem}.md" if not runs else "runs.md")
    assert file.read_text(encoding="utf-8") == written


@pytest.mark.hard
def test_the_page_tells_of_every_table_as_its_copies_stand(
    only_committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this fails after new runs, write the overview again: `memexp table all out=results`, and read the page again."""
    out = only_committed / "out"
    assert main(["table", "all", f"root={only_committed}", f"out={out}"]) == 0
    results = CHECKOUT / "results"
    told = (results / "overview-small.md").read_text(encoding="utf-8")
    assert (out / "overview-small.md").read_text(encoding="utf-8") == told
    assert (out / "overview-small.svg").read_text(encoding="utf-8") == (results / "overview-small.svg").read_text(
        encoding="utf-8"
    )
    page = (results / "reproduced.md").read_text(encoding="utf-8")
    for name in experiments():
        assert f"`{name}`" in page, name
    assert len(re.findall(r"^\| [a-z]+/", told, re.MULTILINE)) > 15

"""Rows, columns, means, spreads and differences of a table, against numbers worked out here."""

import json
import math
import shutil
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from memexp.config.groups import Scored
from memexp.config.revisions import REVISIONS, Revision
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.report.table.comparison import Comparison, compare
from memexp.report.table.entries import Column
from memexp.report.table.text import lay_out
from memexp.store.folder import all_runs

from ...messages import says

CODE = Column("code")
LABELS = [
    "vanilla-64-0-0",
    "xl-64-64-0",
    "knn-64-64-512",
    "knn-64-64-4096",
    "knn-64-64-4096-off",
    "knn-64-64-8192-trained4096",
]


def compared_runs(
    fakes: Any,
    metric: str = "perplexity",
    baseline: str | None = None,
    by: str = "",
    gauges: Sequence[str] = (),
    **scored: Any,
) -> Comparison:
    runs, asked = all_runs(fakes.root), Scored(**scored)
    return compare(fakes.root, runs, metric=metric, scored=asked, by=by, gauges=gauges, baseline=baseline)


def cell(comparison: Comparison, label: str, column: Column = CODE) -> tuple[Any, Any]:
    row = next(row for row in comparison.rows if row.label == label)
    return comparison.spread(row, column), comparison.difference(row, column)


def test_rows_are_what_differs_but_for_the_seed(compared: Any) -> None:
    assert [row.label for row in compared_runs(compared).rows] == LABELS


def test_mean_and_spread_are_those_of_the_statistics_module(compared: Any) -> None:
    spread, difference = cell(compared_runs(compared), "knn-64-64-512")
    ours, base = [math.exp(3.25), math.exp(3.5)], [math.exp(3.75), math.exp(3.875)]
    assert (spread.mean, spread.deviation, spread.n) == pytest.approx(
        (statistics.mean(ours), statistics.stdev(ours), 2)
    )
    relative = [100 * (a - b) / b for a, b in zip(ours, base, strict=True)]
    found = difference.spread
    assert (found.mean, found.deviation, found.n) == pytest.approx(
        (statistics.mean(relative), statistics.stdev(relative), 2)
    )


def test_difference_of_nats_is_absolute_and_uses_common_seeds_only(compared: Any) -> None:
    spread, difference = cell(compared_runs(compared, "nats", "xl"), "knn-64-64-4096")
    assert (spread.mean, spread.deviation) == (3.125, None)
    assert difference.paired
    assert difference.spread.mean == pytest.approx(3.125 - 3.5)


def test_without_a_common_seed_the_difference_is_one_of_means(fakes: Any) -> None:
    fakes.score(fakes.run("a", arch="vanilla", seed=0), 3.0)
    fakes.score(fakes.run("b", arch="vanilla", seed=1), 4.0)
    fakes.score(fakes.run("c", arch="xl", mem=64, seed=2), 2.0)
    _, difference = cell(compared_runs(fakes, "nats"), "xl-64-64-0")
    assert not difference.paired
    assert difference.spread.mean == pytest.approx(-1.5)


@pytest.mark.parametrize(("key", "value"), [("arch.position", "rotary"), ("optim.rate", 0.001), ("steps", 500)])
def test_runs_that_differ_in_a_setting_never_share_a_row(fakes: Any, key: str, value: Any) -> None:
    fakes.score(fakes.run("one", arch="xl", mem=64), 3.0)
    fakes.score(fakes.run("two", arch="xl", mem=64, seed=1, settings={key: value}), 4.0)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    assert any(row.label == f"xl-64-64-0-{key}:{text}" for row in compared_runs(fakes).rows)
    assert len(compared_runs(fakes).rows) == 2


@pytest.mark.parametrize(("key", "value"), [("eval.lanes", 4), ("tag", "x"), ("root", "/elsewhere")])
def test_settings_that_change_no_result_make_no_row(fakes: Any, key: str, value: Any) -> None:
    fakes.score(fakes.run("one", arch="xl", mem=64), 3.0)
    fakes.score(fakes.run("two", arch="xl", mem=64, seed=1, settings={key: value}), 4.0)
    assert [row.label for row in compared_runs(fakes).rows] == ["xl-64-64-0"]


def test_a_preset_stands_for_what_it_sets(fakes: Any) -> None:
    fakes.score(fakes.run("one", arch="xl", mem=64), 3.0)
    fakes.score(fakes.run("two", arch="xl", mem=64, settings={"size.name": "200m", "size.width": 1024}), 2.0)
    assert {row.settings for row in compared_runs(fakes).rows} == {(("size", "small"),), (("size", "200m"),)}
    fakes.score(fakes.run("three", arch="xl", mem=64, settings={"size.width": 256}), 2.5)
    assert len({row.settings for row in compared_runs(fakes).rows}) == 3


def test_data_settings_tell_rows_apart_only_inside_a_data_set(fakes: Any) -> None:
    fakes.score(fakes.run("code", arch="xl", mem=64), 3.0)
    fakes.score(fakes.run("text", arch="xl", mem=64, data="text", settings={"data.max_document": 8}), 3.5)
    assert [row.label for row in compared_runs(fakes).rows] == ["xl-64-64-0"]
    fakes.score(fakes.run("more", arch="xl", mem=64, data="text", settings={"data.max_document": 16}), 3.5)
    assert len(compared_runs(fakes).rows) == 3


def test_seeds_of_a_continued_run_share_a_row(fakes: Any) -> None:
    for seed in (0, 1):
        fakes.run(f"xl-s{seed}", arch="xl", mem=64, seed=seed)
        run = fakes.run(f"knn-s{seed}", mem=512, seed=seed, settings={"init_from": f"xl-s{seed}"})
        fakes.score(run, 3.0 + seed)
    fakes.score(fakes.run("knn-new", mem=512), 3.5)
    comparison = compared_runs(fakes)
    assert [len(cell) for cell in comparison.cells.values()] == [1, 2]
    for seed in (0, 1):  # and of one that was continued again
        run = fakes.run(f"more-s{seed}", mem=1024, seed=seed, settings={"init_from": f"knn-s{seed}"})
        fakes.score(run, 2.0 + seed)
    assert [len(cell) for cell in compared_runs(fakes).cells.values()] == [1, 2, 2]


def test_a_missing_cell_is_filled_by_eval_where_the_run_is_there(compared: Any) -> None:
    run = compared.run("text-s0", mem=4096, data="text")
    compared.score(run, 3.0, split="valid")
    comparison = compared_runs(compared)
    off = next(row for row in comparison.rows if row.label == "knn-64-64-4096-off")
    assert comparison.columns == [CODE, Column("text")]
    here = f" root={compared.root}"
    assert comparison.filling(off, "text") == "memexp eval text-s0 eval.split=test memory=off" + here
    assert comparison.filling(comparison.rows[0], "text") == "memexp train arch=vanilla mem=0 seed=0 data=text" + here
    assert comparison.filling(comparison.rows[-1], "text") == "memexp eval text-s0 eval.split=test mem=8192" + here


def test_an_unfinished_run_is_left_out_and_named(compared: Any) -> None:
    compared.run("xl-new", arch="xl", mem=64, seed=5, done=False)
    comparison = compared_runs(compared)
    assert [row.label for row in comparison.rows] == LABELS
    [line] = comparison.left_out
    assert says("xl-new", "left out", "not done (stopped, step 500 of 1,367)")(line)


def refused(fakes: Any, *said: str, **options: Any) -> None:
    with pytest.raises(UserError, check=says(*said)):
        compared_runs(fakes, **options)


def test_no_such_score_says_which_exist(compared: Any) -> None:
    refused(compared, "valid", "test-8x8192", "memexp eval knn-4096-s0 eval.split=valid", split="valid")


def test_only_unfinished_runs_are_refused(fakes: Any) -> None:
    fakes.run("one", done=False)
    refused(fakes, "no run is left", "not done", "step 500 of 1,367")


def apart(fakes: Any, *said: str, metric: str = "perplexity") -> None:
    """The two runs have a column each, nothing is said to differ between them, and a note has all these words."""
    comparison = compared_runs(fakes, metric)
    assert len(comparison.columns) == len(comparison.rows) == 2
    assert len(comparison.cells) == 2
    assert not any(comparison.difference(row, column) for row in comparison.rows for column in comparison.columns)
    notes = [note for note in lay_out(comparison).notes if "cannot be compared" in note]
    assert all(column.label in notes[0] for column in comparison.columns)
    assert says(*said)(notes[0])
    assert all(column.label.startswith("code ") for column in comparison.columns)


def test_other_tokenizers_stand_apart_but_per_byte(fakes: Any) -> None:
    fakes.score(fakes.run("one", arch="vanilla"), 3.0)
    other = fakes.run("two", arch="xl", mem=64, settings={"data.tokenizer.vocabulary": 512})
    fakes.score(other, 3.0, tokenizer_hash="bbbbbbbb2222", tokens_hash="dddd")
    apart(fakes, "one and two", "aaaaaaaa, bbbbbbbb", "metric=bits_per_byte")
    comparison = compared_runs(fakes, "bits_per_byte")
    assert (len(comparison.rows), comparison.columns) == (2, [CODE])


@pytest.mark.parametrize(
    ("change", "said"), [({"bytes": 10_000}, "10,000 bytes"), ({"ids": ["x", "y"]}, "different documents")]
)
def test_per_byte_still_needs_the_same_text(fakes: Any, change: Any, said: str) -> None:
    fakes.score(fakes.run("one", arch="vanilla"), 3.0)
    other = fakes.run("two", arch="xl", mem=64)
    fakes.score(other, 3.0, tokenizer_hash="bbbbbbbb2222", tokens_hash="dddd", **change)
    apart(fakes, "one and two", said, metric="bits_per_byte")


def test_a_tokenizer_trained_anew_makes_another_row(fakes: Any) -> None:
    fakes.score(fakes.run("one", arch="xl", mem=64), 3.0)
    fakes.score(fakes.run("two", arch="xl", mem=64, seed=1), 3.0, tokenizer_hash="bbbbbbbb2222", tokens_hash="dddd")
    assert len(compared_runs(fakes, "bits_per_byte").rows) == 2
    fakes.score(fakes.run("three", arch="xl", mem=64, seed=2, settings={"optim.rate": 0.001}), 3.0)
    assert len(compared_runs(fakes, "bits_per_byte").rows) == 3


def test_other_tokens_stand_apart(fakes: Any) -> None:
    fakes.score(fakes.run("one", arch="vanilla"), 3.0)
    fakes.score(fakes.run("two", arch="xl", mem=64), 3.0, tokens_hash="dddd")
    apart(fakes, "one and two", "different tokens of code", "force=true")
    apart(fakes, "one and two", "different tokens of code", "force=true", metric="bits_per_byte")


def test_the_same_seed_twice_is_refused(compared: Any) -> None:
    runs = compared.root / "results" / "runs"
    shutil.copytree(runs / "xl-64-s1", runs / "xl-copy")
    refused(compared, "xl-64-s1 and xl-copy", "same seed 1")


@pytest.mark.parametrize("baseline", ["knn", "nothing"])
def test_a_baseline_names_one_row(compared: Any, baseline: str) -> None:
    refused(compared, repr(baseline), "knn-64-64-512", baseline=baseline)


def test_a_metric_of_answers_leaves_out_runs_on_text(answered: Any) -> None:
    comparison = compared_runs(answered, "accuracy")
    assert comparison.columns == [Column("copy")]
    [line] = comparison.left_out
    assert says("text", "left out", "code has no answers", "no accuracy")(line)
    spread, difference = cell(comparison, "xl-64-64-0", Column("copy"))
    values = [(short + 5 * 0.25) / 6 for short in (0.5, 0.75)]
    assert (spread.mean, spread.deviation) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    assert difference.spread.mean == pytest.approx(values[0] - (0.125 + 5 * 0.0625) / 6)  # seed 0 alone; absolute
    both = compared_runs(answered)  # each scored as after its training
    assert both.columns == [CODE, Column("copy")]
    assert both.left_out == []


def test_a_metric_of_classes_leaves_out_what_has_none(answered: Any) -> None:
    run = answered.run("rmt-s0", arch="rmt", mem=8, data="hyperpartisan")
    answered.score(run, 1.0, accuracy=0.75, exact_match=0.75, slices={}, f1=0.875, f1_macro=0.5)
    comparison = compared_runs(answered, "f1")
    assert [column.data for column in comparison.columns] == ["hyperpartisan"]
    assert comparison.spread(comparison.rows[0], comparison.columns[0]).mean == 0.875  # type: ignore[union-attr]
    [line] = [line for line in comparison.left_out if "classes" in line and line.startswith("text ")]
    assert says("left out", "code has no classes", "no F1")(line)
    refused(answered, "expected metric=accuracy or metric=exact_match", metric="f1", by="length")


def test_a_slice_makes_a_column_of_each_value(answered: Any) -> None:
    comparison = compared_runs(answered, "exact_match", by="length")
    short, long = Column("copy", "length", "24"), Column("copy", "length", "120")
    assert comparison.columns == [short, long]
    assert [column.label for column in comparison.columns] == [
        "copy length=24",
        "copy length=120",
    ]
    assert cell(comparison, "xl-64-64-0", short)[0].mean == pytest.approx((0.5**2 + 0.75**2) / 2)
    assert cell(comparison, "vanilla-64-0-0", long)[0].mean == 0.0625**2


def test_gauges_are_means_over_seeds(answered: Any) -> None:
    comparison = compared_runs(answered, gauges=["gate.1", "scale.1"])
    vanilla, xl = comparison.rows
    assert [comparison.gauge(xl, "copy", name) for name in comparison.gauges] == [0.5, 16.0]
    assert comparison.gauge(vanilla, "copy", "gate.1") is None
    assert comparison.gauge(xl, "code", "gate.1") is None


def test_a_run_on_answers_that_is_not_scored_yet_has_a_row(answered: Any) -> None:
    run = next(run for run in all_runs(answered.root) if run.name == "vanilla-s0")
    (run.path / "eval" / "test-1000x0-0-on").rename(run.path / "eval" / "valid-1000x0-0-on")
    comparison = compared_runs(answered, "exact_match", by="length")
    assert [row.label for row in comparison.rows] == ["vanilla-64-0-0", "xl-64-64-0"]
    assert [run.name for run in comparison.unscored] == ["vanilla-s0"]
    assert (
        comparison.filling(comparison.rows[0], "copy") == f"memexp eval vanilla-s0 eval.split=test root={answered.root}"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "nats", "by": "length"}, ("by is length", "metric=nats", "expected metric=accuracy")),
        ({"metric": "accuracy", "by": "lenght"}, ("copy has no slice lenght", "length)")),
        ({"gauges": ["gate"]}, ("gauges", "gate", "expected one of: gate.1, scale.1", "did you mean")),
        ({"metric": "accuracy", "documents": 8}, ("no finished run", "test, first 8 documents, whole")),
    ],
)
def test_what_no_run_has_is_refused(answered: Any, options: Any, words: tuple[str, ...]) -> None:
    refused(answered, *words, **options)


def test_a_reason_to_leave_out_runs_is_said_once(answered: Any) -> None:
    for seed in range(5):
        older = answered.run(f"older-s{seed}", data="rewrite", seed=seed)
        answered.score(older, 1.0, name="1000x0", accuracy=0.5, exact_match=0.5, slices={"pairs": {}})
    lines = compared_runs(answered, "exact_match", by="length").left_out
    assert len(lines) == 2
    [line] = [line for line in lines if "rewrite" in line]
    assert says("older-s0, older-s1, older-s2 and 2 more are left out", "no slice length", "force=true")(line)


def test_a_score_without_the_slice_does_not_hide_the_others_of_its_run(answered: Any) -> None:
    run = next(run for run in all_runs(answered.root) if run.name == "xl-s0")
    answered.score(run, 1.0, name="1000x0", memory="foreign", accuracy=0.5, exact_match=0.5, slices={"pairs": {}})
    comparison = compared_runs(answered, "exact_match", by="length")
    assert [row.label for row in comparison.rows] == ["vanilla-64-0-0", "xl-64-64-0"]
    assert cell(comparison, "xl-64-64-0", Column("copy", "length", "24"))
    [line] = [line for line in comparison.left_out if "copy" in line]
    assert says("xl-s0 test-1000x0-64-foreign is left out", "no slice length")(line)


def test_text_alone_has_no_accuracy(compared: Any) -> None:
    refused(compared, "no run is left", "code has no answers", "no exact match", metric="exact_match")


def test_scores_as_after_training_that_are_of_other_documents_stand_apart(compared: Any) -> None:
    run = compared.run("knn-whole", mem=1024, settings={"eval.documents": 0, "eval.max_document": 0})
    compared.score(run, 3.0, name="0x0", tokens_hash="dddd")
    comparison = compared_runs(compared)
    labels = [column.label for column in comparison.columns]
    assert labels == ["code 8x8192", "code 0x0"]
    [note] = [note for note in lay_out(comparison).notes if "cannot be compared" in note]
    assert says(*labels, "first 8,192 tokens of each", "test, all documents, whole", "eval.documents")(note)
    assert not lay_out(comparison).missing  # nothing is lacking: each row has a score
    labels = [row.label for row in compared_runs(compared, documents=8, max_document=8192).rows]
    assert labels == [*LABELS[:3], "knn-64-64-1024", *LABELS[3:]]


def tiny_trial(fakes: Any, **settings: Any) -> None:
    """A run to try something out, which is also scored on the text of the others."""
    chosen = {
        "size.name": "tiny", "size.layers": 2, "size.width": 32, "segment": 16, "lanes": 2, "accumulate": 1, "steps": 20,
        "optim.rate": 0.01, "data.max_document": 128, "arch.position": "t5",
    }  # fmt: skip
    fakes.score(fakes.run("trial", arch="vanilla", settings=chosen | settings), 6.0)


def test_a_tiny_trial_is_nobody_s_baseline_and_changes_no_difference(compared: Any) -> None:
    def cells() -> dict[str, tuple[Any, Any]]:
        found = compared_runs(compared)
        return {row.label.replace("-size:small", ""): cell(found, row.label) for row in found.rows}

    before = cells()
    tiny_trial(compared)
    after = cells()
    assert {label: after[label] for label in LABELS} == before
    [trial] = after.keys() - before.keys()
    assert trial == "vanilla-16-0-0-size:tiny-steps:20"  # what the size implies is not listed; what was changed is
    assert (after[trial][0].n, after[trial][1]) == (1, None)
    compared_with_it = compared_runs(compared, baseline="vanilla-16")  # unless it is chosen
    assert cell(compared_with_it, "vanilla-64-0-0-size:small")[1].spread.mean < -80
    notes = lay_out(compared_runs(compared)).notes
    assert any("no other row has this size and amount of training" in note for note in notes)


def test_each_column_and_scale_has_a_baseline(compared: Any) -> None:
    for arch, mem, loss in (("xl", 64, 3.0), ("knn", 0, 3.5), ("knn", 512, 2.5)):  # no vanilla on text
        compared.score(compared.run(f"text-{arch}-{mem}", arch=arch, mem=mem, data="text"), loss)
    tiny_trial(compared)
    more = {"size.name": "tiny", "size.layers": 2, "size.width": 32, "segment": 16, "lanes": 2, "steps": 20}
    more |= {"optim.rate": 0.01, "data.max_document": 128}
    compared.score(compared.run("trial-knn", mem=512, settings=more), 5.0)
    found = compared_runs(compared)
    small, trial = "-size:small", "-size:tiny-steps:20"
    named = {column.label: [row.label for row in found.baseline_rows(column)] for column in found.columns}
    assert named == {"code": [f"vanilla-64-0-0{small}", f"vanilla-16-0-0{trial}"], "text": [f"xl-64-64-0{small}"]}
    gain = cell(found, f"knn-64-64-512{small}", Column("text"))[1].spread.mean
    assert gain == pytest.approx(100 * (math.exp(2.5 - 3.0) - 1))
    row = next(row for row in found.rows if row.label == f"knn-16-64-512{trial}")
    assert found.difference(row, CODE).spread.mean == pytest.approx(100 * (math.exp(5.0 - 6.0) - 1))  # type: ignore[union-attr]


def test_a_trial_with_other_settings_is_no_baseline(compared: Any) -> None:
    """Its label comes first in the order of the alphabet, but most rows have the other value."""
    compared.score(compared.run("trial", arch="vanilla", settings={"optim.rate": 0.0001}), 9.0)
    found = compared_runs(compared)
    assert [row.label for row in found.baseline_rows(CODE)] == ["vanilla-64-0-0-optim.rate:0.003"]


@pytest.mark.parametrize("file", ["summary.json", "eval/test-8x8192-64-on/summary.json", "config.yaml"])
@pytest.mark.parametrize("content", ["\0", "{}", "[]", '{"arch": 1, "data": 2, "seed": 3, "segment": 4, "mem": 5}'])
def test_a_damaged_run_is_named_and_hides_no_other(compared: Any, file: str, content: str) -> None:
    path = compared.root / "results" / "runs" / "xl-64-s0" / file
    path.write_text(content)
    assert left_out(compared, "xl-64-s0 is left out: ", str(path)) == ["xl-64-s0"]


def left_out(fakes: Any, *words: str) -> list[str]:
    """The runs that are not in the table, the others are; of the first one all these words are said."""
    found = compared_runs(fakes)
    assert found.finished
    assert all(word in found.left_out[0] for word in words), found.left_out
    return [run.name for run in all_runs(fakes.root) if run.name not in [there.name for there in found.finished]]


@pytest.mark.parametrize("value", [None, "3", float("nan")])
def test_a_mean_that_is_no_number_is_left_out(compared: Any, value: Any) -> None:
    run = next(run for run in all_runs(compared.root) if run.name == "xl-64-s0")
    shutil.rmtree(run.path / "eval")
    compared.score(run, 3.0, perplexity=value)
    assert left_out(compared, "xl-64-s0 is left out: ", "expected finite numbers") == ["xl-64-s0"]


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.name)
def test_runs_before_and_after_a_revision_have_rows_of_their_own(fakes: Any, revision: Revision) -> None:
    """Also where only the seed differs, and a revision that this version does not know."""
    settings = {
        "arch.position": "xl", "arch.faithful": True, "arch.recall": 0.5, "size.heads": 3, "size.head_size": 7, "optim.name": "adafactor",
    }  # fmt: skip
    everything = [each.name for each in REVISIONS]
    for seed, names in enumerate(
        (everything, [name for name in everything if name != revision.name], [*everything, "of-tomorrow"])
    ):
        run = fakes.run(f"knn-s{seed}", mem=512, seed=seed, settings={})
        config = yaml.safe_load((run.path / "config.yaml").read_text())
        for name, value in settings.items():
            group, last = name.split(".")
            config[group][last] = value
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        identity = {"arch": config["arch"], "revisions": names}
        (run.path / "identity.json").write_text(json.dumps(identity | {"hash": fingerprint(identity)}))
        fakes.score(run, 3.0)
    found = compare(fakes.root, all_runs(fakes.root), metric="perplexity", scored=Scored())
    assert sorted(dict(row.settings)["before"] for row in found.rows) == sorted(
        ["none", revision.name, "after-of-tomorrow"]
    )
    assert all(f"before={value}" in " ".join(map(str, lay_out(found).lines)) for value in ("none", revision.name))


LONG = [[float(index) for index in range(2100)], [0.5] * 513]
"""The nats of two documents; a token's number is that of the tokens before it."""


def test_positions_are_ranges_that_end_at_twice_the_one_before(fakes: Any) -> None:
    fakes.score(fakes.run("a", arch="vanilla", summary={"state_bytes_per_lane": 0}), LONG)
    fakes.score(fakes.run("b", arch="xl", mem=64, summary={"state_bytes_per_lane": 50_000}), LONG)
    comparison = compared_runs(fakes, "nats", by="position")
    assert [column.label for column in comparison.columns] == [
        "code to 512",
        "code to 1,024",
        "code to 2,048",
        "code to 4,096",
    ]
    found = [cell(comparison, "vanilla-64-0-0", column)[0].mean for column in comparison.columns]
    first, second = LONG
    parts = [first[:512] + second[:512], first[512:1024] + second[512:], first[1024:2048], first[2048:]]
    assert found == pytest.approx([statistics.mean(part) for part in parts], rel=1e-6)
    (state,) = [at for at, header in enumerate(lay_out(comparison).headers) if header == "state"]
    assert [line[state] for line in lay_out(comparison).lines] == ["0", "50,000"]
    bits = compared_runs(fakes, "bits_per_token", by="position")
    assert cell(bits, "vanilla-64-0-0", bits.columns[0])[0].mean == pytest.approx(found[0] / math.log(2))


def test_only_metrics_of_tokens_are_shown_by_position(compared: Any) -> None:
    for metric in ("bits_per_byte", "accuracy", "f1"):
        refused(compared, "by is position", metric=metric, by="position")


def test_a_checkpoint_that_was_only_scored_shows_how_fast_it_was_scored(fakes: Any) -> None:
    fakes.score(fakes.run("a", arch="vanilla", summary={"tokens_per_second": 0.0}), 3.0, tokens_per_second=123.0)
    grid = lay_out(compared_runs(fakes))
    assert grid.lines[0][grid.headers.index("tokens/s")] == "123"

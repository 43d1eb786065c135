"""The difference of two scores, against plain loops and an exact enumeration of resamples."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from memexp.config.arch import ARCHS
from memexp.config.groups import Scored
from memexp.errors import UserError
from memexp.report.difference.tokens import Difference, by_position, difference, extremes, interval
from memexp.store.folder import RETRIEVED
from memexp.store.scores import find_score, load_scores

from ...messages import says


def paired(fakes: Any, a: str = "a", b: str = "b") -> Difference:
    return difference(*(load_scores(*find_score(fakes.root, name, Scored())) for name in (a, b)))


def two(fakes: Any, a: Any, b: Any, **changes: Any) -> Difference:
    fakes.score(fakes.run("a", arch="xl", mem=64), a)
    fakes.score(fakes.run("b", mem=512), b, **changes)
    return paired(fakes)


def random_documents(lengths: list[int], seed: int) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [random.exponential(3, length).astype(np.float32).tolist() for length in lengths]


def test_gain_shares_and_places(fakes: Any) -> None:
    found = two(fakes, [[2.0, 1.0, 3.0], [4.0, 5.0]], [[1.0, 1.005, 4.0], [4.0, 4.5]])
    assert found.gain_N == pytest.approx([1.0, -0.005, -1.0, 0.0, 0.5], abs=1e-6)
    assert found.document_N.tolist() == [0, 0, 0, 1, 1]
    assert found.position_N.tolist() == [1, 2, 3, 1, 2]  # the first token of a document is never scored
    assert (found.helped, found.hurt) == (2 / 5, 1 / 5)
    assert found.mean == pytest.approx(0.495 / 5, abs=1e-6)
    assert extremes(found, 2) == ([0, 4], [2, 1])
    assert extremes(found, 99) == ([0, 4], [2, 1])


def test_ties_come_in_order_of_reading(fakes: Any) -> None:
    found = two(fakes, [[1.0, 2.0, 1.0, 2.0]], [[0.5, 1.5, 1.5, 2.5]])
    assert extremes(found, 1) == ([0], [2])


def test_mean_of_many_small_numbers_is_summed_in_double_precision(fakes: Any) -> None:
    a, b = random_documents([40_000], 1), random_documents([40_000], 2)
    exact = sum(np.float64(x) - np.float64(y) for x, y in zip(a[0], b[0], strict=True)) / 40_000
    assert two(fakes, a, b).mean == pytest.approx(exact, rel=1e-12)


def test_interval_is_that_of_all_resamples_widened_for_so_few_documents(fakes: Any) -> None:
    lengths = [40, 50, 60, 45]
    a, b = random_documents(lengths, 1), random_documents(lengths, 2)
    sums = [sum(x) - sum(y) for x, y in zip(a, b, strict=True)]
    every = [
        sum(sums[at] for at in drawn) / sum(lengths[at] for at in drawn)
        for drawn in itertools.product(range(4), repeat=4)  # all 256 are equally likely
    ]
    mean = sum(sums) / sum(lengths)
    wider = stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975) * (4 / 3) ** 0.5
    low, high = (mean + wider * (end - mean) for end in np.quantile(every, [0.025, 0.975]))
    found = interval(two(fakes, a, b))
    assert found == pytest.approx((low, high), rel=0.02)  # ours are 10,000 of these resamples


def test_interval_is_paired_and_the_same_every_time(fakes: Any) -> None:
    a = random_documents([30] * 6, 1)
    found = two(fakes, a, [[value - 0.25 for value in document] for document in a])
    low, high = interval(found) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.25, 0.25), abs=1e-6)  # unpaired it would be as wide as the documents differ
    assert interval(found) == (low, high)


def test_one_document_has_no_interval(fakes: Any) -> None:
    assert interval(two(fakes, [[1.0, 2.0]], [[0.0, 0.0]])) is None


def test_bins_by_position_over_documents(fakes: Any) -> None:
    a, b = random_documents([1030, 600], 1), random_documents([1030, 600], 2)
    found = by_position(two(fakes, a, b))
    sums, counts = [0.0] * 3, [0] * 3
    for ours, theirs in zip(a, b, strict=True):
        for index, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            sums[index // 512] += x - y
            counts[index // 512] += 1
    assert [one.tokens for one in found] == counts == [1024, 600, 6]
    assert [one.gain for one in found] == pytest.approx([s / n for s, n in zip(sums, counts, strict=True)])
    assert [(one.first, one.last) for one in found] == [(1, 512), (513, 1024), (1025, 1536)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer_hash": "bbbb2222"}, ("tokenizers", "aaaaaaaa", "bbbb2222")),
        ({"ids": ["package0", "other"]}, ("package1 (2 tokens)", "other (2 tokens)")),
        ({"tokens_hash": "dddd"}, ("different tokens",)),
        ({"tokens": [[65, 66], [65, 67]]}, ("different tokens",)),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(fakes: Any, change: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, check=says("a and b ", "expected", *words)):
        two(fakes, 3.0, 2.0, **change)


def test_a_score_is_not_compared_with_itself(fakes: Any) -> None:
    fakes.score(fakes.run("a", mem=512), 3.0)
    with pytest.raises(UserError, check=says("test-8x8192-512-on", "expected two")):
        paired(fakes, "a", "a@512-on")


def test_a_run_names_its_own_memory_and_at_names_another(fakes: Any) -> None:
    run = fakes.run("knn-abc", mem=4096)
    for mem, memory in ((None, "on"), (512, "on"), (4096, "off"), (1024, "foreign")):
        fakes.score(run, 3.0, mem=mem, memory=memory)
    found = {
        name: find_score(fakes.root, name, Scored())
        for name in ("knn", "knn-abc@512", "knn-abc@4096-off", "knn@1k-foreign")
    }
    assert {name: score.path.name for name, (_, score) in found.items()} == {
        "knn": "test-8x8192-4096-on",
        "knn-abc@512": "test-8x8192-512-on",
        "knn-abc@4096-off": "test-8x8192-4096-off",
        "knn@1k-foreign": "test-8x8192-1024-foreign",
    }
    assert [label for label, _ in found.values()] == [
        "knn-abc",
        "knn-abc@512",
        "knn-abc@4096-off",
        "knn-abc@1024-foreign",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("knn@64", ("`memexp eval knn-abc eval.split=test mem=64`",)),
        ("knn@4096-off", ("`memexp eval knn-abc eval.split=test memory=off`",)),
        ("knn", ("valid-8x8192-4096-on", "`memexp eval knn-abc eval.split=test`")),
        ("knn@lots", ("knn@lots", "expected RUN, RUN@mem or RUN@mem-memory")),
        ("knn@512-out", ("knn@512-out", "expected RUN, RUN@mem or RUN@mem-memory")),
        ("", ("empty", "expected")),
        ("nothing", ("'nothing'", "expected")),
        ("late", ("late", "not done (stopped, step 500 of 1,367)")),
    ],
)
def test_a_name_without_a_score_says_what_to_do(fakes: Any, name: str, words: tuple[str, ...]) -> None:
    fakes.score(fakes.run("knn-abc", mem=4096), 3.0, split="valid")
    fakes.score(fakes.run("late", done=False), 3.0)
    with pytest.raises(UserError, check=says(*words)):
        find_score(fakes.root, name, Scored())


@pytest.mark.parametrize("arch", [name for name, schema in ARCHS.items() if schema.mem_unit])
def test_no_command_is_named_that_would_be_refused(fakes: Any, arch: str) -> None:
    """A memory whose size is that of parameters cannot be scored with another one."""
    fakes.score(fakes.run(arch, arch=arch, mem=64), 3.0)
    wanted = "mem=8" if ARCHS[arch].resizable else "consists of parameters; expected mem=64"
    with pytest.raises(UserError, check=says(wanted)):
        find_score(fakes.root, f"{arch}@8", Scored())


def truncated(path: Any) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def shorter(path: Any) -> None:
    np.save(path, np.load(path)[:-1])


def not_a_number(path: Any) -> None:
    np.save(path, np.full(4, np.nan, dtype=np.float32))


def pickled(path: Any) -> None:
    np.save(path, np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("token_nats.npy", truncated, ("cannot read",)),
        ("token_nats.npy", shorter, ("shape (3,)", "expected 4 numbers")),
        ("tokens.npy", shorter, ("shape (3,)", "expected 4 numbers")),
        ("token_nats.npy", not_a_number, ("nan", "expected")),
        ("tokens.npy", pickled, ("cannot read",)),
        ("tokens.npy", lambda path: path.unlink(), ("not exist",)),
        ("documents.json", truncated, ("cannot read",)),
        ("documents.json", lambda path: path.write_text('[{"id": 1}]'), ("a list of documents", "id and tokens")),
        ("documents.json", lambda path: path.write_text("[]"), ("shape (4,)", "expected 0 numbers")),
        ("summary.json", lambda path: path.write_text(json.dumps({"mem": 3})), ("lacks data",)),
    ],
)
def test_a_damaged_score_is_refused_in_one_line(fakes: Any, file: str, damage: Any, words: tuple[str, ...]) -> None:
    fakes.score(fakes.run("a", arch="xl", mem=64), 3.0)
    damage(fakes.score(fakes.run("b", mem=512), 2.0).path / file)
    with pytest.raises(UserError, check=says(file, *words)):
        paired(fakes)


def test_places_that_do_not_fit_are_refused(fakes: Any) -> None:
    fakes.score(fakes.run("a", arch="xl", mem=64), 3.0)
    path = fakes.score(fakes.run("b", mem=512), 2.0).path / "retrieved.npy"
    places = np.zeros((4, 2), dtype=RETRIEVED)
    np.save(path, places)
    retrieved = paired(fakes).b.retrieved
    assert retrieved is not None
    assert retrieved.shape == (4, 2)
    for wrong in (places[:3], places["weight"], places[:, 0]):
        np.save(path, wrong)
        with pytest.raises(UserError, check=says(str(path), "expected 4 rows", "distance", "weight")):
            paired(fakes)


def test_a_score_names_the_command_that_makes_it_again(fakes: Any) -> None:
    run = fakes.run("knn", mem=512)
    fakes.score(run, 2.0)
    fakes.score(run, 2.0, mem=64)
    own, smaller = (load_scores(*find_score(fakes.root, name, Scored())) for name in ("knn", "knn@64"))
    documents = "eval.split=test eval.documents=8 eval.max_document=8192"
    assert own.command(memory="foreign") == f"memexp eval knn {documents} memory=foreign"
    assert smaller.command("retrieved=4") == f"memexp eval knn {documents} mem=64 retrieved=4"


def test_an_empty_score_is_refused(fakes: Any) -> None:
    with pytest.raises(UserError, check=says("scored no token")):
        two(fakes, [[]], [[]])

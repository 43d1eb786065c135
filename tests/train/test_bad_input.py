"""What goes wrong from outside is one line, and nothing that was finished is lost."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memexp.config.checks import check
from memexp.data.corpus import Corpus
from memexp.errors import UserError
from memexp.files import read_json, write_json
from memexp.model.transformer.head import Head
from memexp.store.folder import Run, all_runs
from memexp.store.identity import identify, read_identity
from memexp.train import checkpoint, loop
from memexp.train import metrics_file as metrics
from memexp.train.metrics_file import MetricsFile

from ..messages import says
from ..tiny import configure
from .conftest import Train, assert_same_result
from .test_resume import Crash, crash_at


@pytest.fixture
def stopped(run: Train, root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of the default settings, checkpoints at steps 1 and 2, that died in its third of four."""
    crash_at(3, monkeypatch)
    with pytest.raises(Crash):
        run("checkpoint_every=1")
    (found,) = all_runs(root)
    assert sorted(path.name for path in (found.path / "checkpoints").iterdir()) == [
        "step-0000001.pt",
        "step-0000002.pt",
    ]
    return found


# ------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize(
    ("part", "content", "seen"),
    [
        ("state", [torch.zeros(2, 10, 32)], "its state has 1 tensors and the model's has 0"),
        ("model", {"wide": torch.zeros(3)}, "Unexpected key(s)"),
    ],
)
def test_a_state_of_another_architecture_is_refused(
    part: str, content: Any, seen: str, stopped: Run, run: Train
) -> None:
    newest = stopped.path / "checkpoints" / "step-0000002.pt"
    saved = torch.load(newest, weights_only=True)
    del saved["checksum"]
    checkpoint.save(newest, saved | {part: content})
    with pytest.raises(UserError, check=says(str(newest), "does not fit this model", seen, "delete it")):
        run("checkpoint_every=1")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"this is no checkpoint" * 100)


def one_byte_less(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def pickled(path: Path) -> None:
    torch.save({"identity": "x", "model": Payload(path.with_name("was-run"))}, path)


@pytest.mark.parametrize("damage", [cut, emptied, overwritten, one_byte_less, pickled])
def test_a_damaged_checkpoint_is_named_and_the_one_before_still_good(
    damage: Callable[[Path], None], stopped: Run, run: Train, tmp_path: Path
) -> None:
    newest = stopped.path / "checkpoints" / "step-0000002.pt"
    damage(newest)
    with pytest.raises(
        UserError, check=says(str(newest), "cannot be read", "delete it, and the same command continues")
    ):
        run("checkpoint_every=1")
    assert not newest.with_name("was-run").exists()
    newest.unlink()
    (tmp_path / "other").mkdir()
    assert_same_result(run("checkpoint_every=1"), run("checkpoint_every=1", root=tmp_path / "other"))


def test_a_checkpoint_of_other_settings_is_refused(stopped: Run, run: Train, root: Path) -> None:
    theirs = stopped.path / "checkpoints" / "step-0000002.pt"
    other = run("seed=1")
    (other.path / "summary.json").unlink()
    copied = other.path / "checkpoints" / theirs.name
    copied.parent.mkdir(exist_ok=True)
    copied.write_bytes(theirs.read_bytes())
    expected = says("belongs to the settings " + read_identity(stopped)["hash"][:8], read_identity(other)["hash"][:8])
    with pytest.raises(UserError, check=expected):
        run("seed=1")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'"text"', b'{"hash": "x"}', b"\xff\xfe", b"{"])
def test_a_damaged_identity_is_named(content: bytes, run: Train) -> None:
    done = run("steps=1")
    (done.path / "identity.json").write_bytes(content)
    with pytest.raises(UserError, check=says(str(done.path / "identity.json"), "edited")):
        run("steps=1", f"init_from={done.path}")


def test_an_edited_identity_is_noticed(run: Train) -> None:
    done = run("steps=1")
    path = done.path / "identity.json"
    write_json(path, read_json(path) | {"seed": 7})
    with pytest.raises(UserError, check=says(str(path), "damaged")):
        read_identity(done)


def test_another_split_of_the_same_tokens_is_another_run(corpus: Corpus, root: Path) -> None:
    files = corpus.manifest["files"] | {"documents.json": {"bytes": 1, "sha256": "0" * 64}}
    other = replace(corpus, manifest=corpus.manifest | {"files": files})
    assert identify(configure(), other, root)["hash"] != identify(configure(), corpus, root)["hash"]


def test_how_documents_are_read_counts_where_it_is_not_as_it_always_was(corpus: Corpus, root: Path) -> None:
    as_ever = identify(configure(), corpus, root)
    told = {"name", "max_document", "tokens_checksum", "documents_checksum", "tokenizer_hash"}
    assert set(as_ever["data"]) == told
    others = [identify(configure(change), corpus, root) for change in ("data.cut=chunks", "data.drop_tails=true")]
    assert [set(each["data"]) - told for each in others] == [{"cut"}, {"drop_tails"}]
    assert len({each["hash"] for each in [as_ever, *others]}) == 3


def test_adaptive_softmax_counts_where_there_is_one(corpus: Corpus, root: Path) -> None:
    as_ever = identify(configure(), corpus, root)
    cut = identify(configure("size.cutoffs=[9]"), corpus, root)
    lines = identify(configure("size.cutoffs=[9]", "data.tokenizer.kind=lines"), corpus, root)
    assert "softmax" not in as_ever
    assert cut == as_ever
    assert lines["softmax"] == {"cutoffs": [9], "narrowing": 1}
    assert "cutoffs" not in as_ever["size"]


@pytest.mark.parametrize("given", ["size.cutoffs=[9,4]", "size.cutoffs=[4,4]", "size.cutoffs=[0]", "size.narrowing=99"])
def test_cutoffs_that_cannot_be(given: str) -> None:
    with pytest.raises(UserError, check=says(given.split("=")[0])):
        check(configure("size.cutoffs=[4,9]", given))


def test_chunks_need_a_length() -> None:
    with pytest.raises(UserError, check=says("data.cut is chunks", "data.max_document")):
        check(configure("data.cut=chunks", "data.max_document=0"))


# ---------------------------------------------------------------------------------------- not a number


def test_a_loss_that_is_not_finite_names_step_lane_and_checkpoint(
    run: Train, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    nats, calls = Head.nats, []

    def spoilt(self: Head, hidden_BTD: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        result = nats(self, hidden_BTD, targets_BT)
        return result * torch.tensor([[1.0], [float("inf")]]) if len(calls) == 3 else result

    monkeypatch.setattr(Head, "nats", spoilt)
    expected = says("the loss is inf in lane 1 at step 3 of vanilla-tiny", "optim.rate", "step-0000002.pt")
    with pytest.raises(UserError, check=expected):
        run("checkpoint_every=2")
    (found,) = all_runs(root)
    newest = checkpoint.newest(found.path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-0000002.pt"
    assert found.metrics[-1]["step"] == 2
    assert found.summary is None


def test_a_rate_far_too_high_is_the_likely_cause(run: Train) -> None:
    expected = says("at step 2 of vanilla-tiny", "optim.rate is too high", "No checkpoint was written yet")
    with pytest.raises(UserError, check=expected):
        run("optim.rate=1e30", "optim.warmup=0", "optim.schedule=constant", "arch.normalise=false")


def test_a_gradient_that_is_not_finite_is_refused(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    nats = Head.nats
    monkeypatch.setattr(Head, "nats", lambda self, *given: (nats(self, *given) * 0).sqrt())  # slope 0/0
    with pytest.raises(UserError, check=says("gradient's norm is nan at step 1")):
        run()


# ------------------------------------------------------------------------------------------- full disk


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The kernel lets no file grow beyond that: writes come out short and then fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_large_tensor_that_does_not_fit_is_one_line_too(tmp_path: Path) -> None:
    """torch's own error, which hides the file's, comes up only when a tensor is longer than the file's buffer."""
    path = tmp_path / "step-0000001.pt"
    checkpoint.save(path, {"identity": "x", "step": 1})
    full = says("cannot write", str(path), "untouched", "disk is full")
    with files_end_at(100_000), pytest.raises(UserError, check=full):
        checkpoint.save(path, {"identity": "x", "step": 2, "model": torch.zeros(1_000_000)})
    assert checkpoint.load(path, identity="x", remedy="")["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_ends_while_it_is_set_up_is_none(run: Train, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its identity is there before what lists it."""

    def full(path: Path, content: Any) -> None:
        raise UserError(f"cannot write {path}")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_json", full)
        with pytest.raises(UserError, check=says("identity.json")):
            run("seed=5")
    assert all_runs(root) == []
    assert run("seed=5").summary is not None


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(stopped: Run, run: Train, tmp_path: Path) -> None:
    newest = stopped.path / "checkpoints" / "step-0000002.pt"
    before = newest.read_bytes()
    full = says("cannot write", "step-0000003.pt", "untouched", "disk is full")
    with files_end_at(len(before) // 2), pytest.raises(UserError, check=full):
        run("checkpoint_every=1")
    assert newest.read_bytes() == before
    assert sorted(path.name for path in (stopped.path / "checkpoints").iterdir()) == ["step-0000001.pt", newest.name]
    (tmp_path / "other").mkdir()
    assert_same_result(run("checkpoint_every=1"), run("checkpoint_every=1", root=tmp_path / "other"))


def test_half_a_line_of_metrics_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, upto=0)
    file.append({"step": 1, "loss": 2.0})
    with files_end_at(path.stat().st_size + 9):
        with pytest.raises(UserError, check=says(str(path), "newest checkpoint is whole", "disk is full")):
            file.append({"step": 2, "loss": 3.0})
        file.close()  # tries to write again, and fails again
    assert path.read_text().endswith('\n{"step": ')
    assert Run(tmp_path).metrics == [{"step": 1, "loss": 2.0}]
    again = MetricsFile(path, upto=5)
    again.append({"step": 2, "loss": 4.0})
    again.close()
    assert [line["loss"] for line in Run(tmp_path).metrics] == [2.0, 4.0]


def test_a_run_whose_metrics_do_not_fit_goes_on_later(
    stopped: Run, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = MetricsFile.append

    def on_a_full_disk(self: MetricsFile, line: dict[str, Any]) -> None:
        with files_end_at((stopped.path / "metrics.jsonl").stat().st_size + 20):
            append(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "append", on_a_full_disk)
        with pytest.raises(UserError, check=says("metrics.jsonl", "the same command continues")):
            run("checkpoint_every=1")
    (tmp_path / "other").mkdir()
    assert_same_result(run("checkpoint_every=1"), run("checkpoint_every=1", root=tmp_path / "other"))


def test_metrics_that_cannot_reach_the_disk_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", upto=0)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics.os, "fsync", full)
    with pytest.raises(UserError, check=says("No space left on device", "disk is full")):
        file.flush()
    file.close()


@pytest.mark.parametrize("line", [b"\x00\x00\x00", b"{", b"[]", b'{"loss": 1.0}', b"\xff"])
def test_a_damaged_line_of_metrics_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(UserError, check=says(f"line 2 of {path}", "delete that line")):
        MetricsFile(path, upto=5)

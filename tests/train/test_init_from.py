"""Starting from another run's weights: with memory added or enlarged, never with what means something else."""

import shutil
from pathlib import Path

import pytest
import torch

from memexp.cli.main import main
from memexp.config.checkpoints import scores_another
from memexp.config.introspection import choices_of
from memexp.config.synonyms import unknown_setting
from memexp.data.corpus import Corpus
from memexp.data.library import prepare
from memexp.errors import UserError
from memexp.model.build import build_model
from memexp.store.folder import Run, all_runs
from memexp.store.identity import identify
from memexp.train.interrupt import Interrupted
from memexp.train.loop import train
from memexp.train.session import open_session
from memexp.train.spec import specify

from ..messages import says
from ..tiny import configure
from .conftest import Train, weights
from .test_resume import kill_self_at

pytestmark = pytest.mark.usefixtures("capsys")


def initial(corpus: Corpus, root: Path, *overrides: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights that a run would begin with, and what it would print."""
    session = open_session(specify(configure(*overrides), corpus, root))
    return session.model.state_dict(), [remark.text for remark in session.notes]


def test_memory_is_added(run: Train, corpus: Corpus, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = run("arch=xl", "steps=2")
    new = ("arch=knn", "arch.gate=-1.5", f"init_from={source.name}")
    found, notes = initial(corpus, root, *new)
    assert notes == [f"weights from {source.name}", "new, from its initial value: memories.1.gate_H"]
    assert torch.equal(found.pop("memories.1.gate_H"), torch.full((2,), -1.5))
    trained = weights(source)
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in trained)
    fresh, _ = initial(corpus, root, "arch=knn")
    assert not torch.equal(fresh["head.embedding_VD"], found["head.embedding_VD"])
    capsys.readouterr()
    run(*new, "steps=1")
    assert "new, from its initial value: memories.1.gate_H\n" in capsys.readouterr().out


def test_memory_is_enlarged_or_taken_away(run: Train, corpus: Corpus, root: Path) -> None:
    source = run("arch=knn", "mem=64", "steps=2")
    found, notes = initial(corpus, root, "arch=knn", "mem=128", f"init_from={source.path}")
    assert notes == [f"weights from {source.name}"]
    trained = weights(source)
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in trained)
    _, notes = initial(corpus, root, "arch=xl", f"init_from={source.name}")
    assert notes[1:] == ["not used here: memories.1.gate_H"]


@pytest.mark.parametrize("source_arch", ["vanilla", "xl"])
def test_any_memory_is_added_to_a_trained_decoder(source_arch: str, run: Train, corpus: Corpus, root: Path) -> None:
    source = run(f"arch={source_arch}", "steps=1")
    trained, layers = weights(source), configure().size.layers
    refused = set()
    for arch in choices_of("arch"):
        words = (f"arch={arch}", f"init_from={source.name}")
        if build_model(configure(words[0]), vocabulary=corpus.vocabulary).attention_layers < layers:
            with pytest.raises(
                UserError, check=says(f"{layers} layers of that run have attention", "expected as many")
            ):
                initial(corpus, root, *words)
            refused.add(arch)
            continue
        found, notes = initial(corpus, root, *words)
        assert all(torch.equal(found[name], trained[name]) for name in trained), arch
        assert all(note.startswith("new, from its initial value: ") for note in notes[1:])
    assert refused == {"delta"}


def test_new_state_vectors_borrow_from_the_weights_that_came(run: Train, corpus: Corpus, root: Path) -> None:
    source = run("arch=block", "mem=0", "steps=1")
    found, _ = initial(corpus, root, "arch=block", "mem=4", "arch.borrow=true", f"init_from={source.name}")
    [reader] = [name for name in found if name.endswith("attention.queries.weight") and name.startswith("readers.")]
    trained = weights(source)[f"layers.{reader.split('.')[1]}.attention.queries_values.weight"]
    assert torch.equal(found[reader], trained[: len(found[reader])])


def test_it_is_part_of_the_identity_by_what_determined_it(run: Train, corpus: Corpus, root: Path) -> None:
    one, other = run("steps=2"), run("steps=2", "seed=1")
    hashes = [
        identify(configure(*source), corpus, root)["hash"]
        for source in ((), (f"init_from={one.name}",), (f"init_from={other.name}",), (f"init_from={one.path}",))
    ]
    assert len(set(hashes)) == 3
    assert hashes[1] == hashes[3]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("size.width=64", "size.width is 32 in that run and 64 in this one"),
        ("size.layers=3", "size.layers is 2 in that run and 3 in this one"),
        ("size.heads=4", "size.heads is 2 in that run and 4 in this one"),
    ],
)
def test_another_network_is_refused(setting: str, words: str, run: Train, corpus: Corpus, root: Path) -> None:
    source = run("steps=2")
    with pytest.raises(UserError, check=says(words, "expected the same network")):
        initial(corpus, root, setting, f"init_from={source.name}")


def test_another_tokenizer_is_refused(run: Train, root: Path) -> None:
    source = run("steps=2")
    config = configure("data.tokenizer.kind=bytes", f"init_from={source.name}")
    own = root.parent / "own"
    shutil.copytree(root, own)  # the shared folder of corpora stays as it is
    with pytest.raises(UserError, check=says("it reads tokenizer", str(own), "expected the same")):
        train(specify(config, prepare(config.data, own), own), command="")


def test_a_run_that_is_not_done_is_refused(run: Train, root: Path) -> None:
    with pytest.raises(Interrupted):
        run("validate_every=2", validate=kill_self_at(15))
    (source,) = all_runs(root)
    with pytest.raises(UserError, check=says(source.name, "not done (stopped)", "expected")):
        run("arch=knn", f"init_from={source.name}")


BABI = (
    "data=babi", "data.source.documents=[40,4,6]", "data.source.lengths=[64]", "size=task", "size.width=16", "arch=rmt", "mem=2",
    "lanes=2", "device=cpu",
)  # fmt: skip
"""A run whose memory has weights of its own."""


@pytest.mark.hard
def test_the_weights_of_a_run_are_scored_on_other_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def memexp(command: str, *words: str) -> Run:
        before = {run.name for run in all_runs(tmp_path)}
        assert main([command, *words, f"root={tmp_path}"]) == 0, capsys.readouterr().err
        new = [run for run in all_runs(tmp_path) if run.name not in before]
        return new[0] if new else Run(tmp_path)

    source = memexp("train", *BABI, "steps=1", "data.source.test_lengths=[64]")
    scored = (f"init_from={source.name}", "steps=0")
    capsys.readouterr()
    same = memexp("train", *BABI, *scored, "data.source.test_lengths=[64]")
    assert "nothing is trained" in capsys.readouterr().out
    assert (same.summary["steps"], same.summary["tokens"]) == (0, 0)  # type: ignore[index]
    trained, kept = weights(source), weights(same)
    assert trained.keys() == kept.keys()
    assert all(torch.equal(kept[name], trained[name]) for name in trained)
    (theirs,), (own,) = source.scores, same.scores
    assert own.summary["nats_per_token"] == theirs.summary["nats_per_token"]
    longer = memexp("train", *BABI, *scored, "data.source.test_lengths=[200]")
    assert list(longer.scores[0].summary["slices"]["length"]) == ["200"]
    memexp("eval", longer.name, "memory=off")  # its weights are its own
    capsys.readouterr()
    memexp("table", longer.name, "by=length")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Nothing was trained in {longer.name}, which scores the weights of {source.name}." in shown
    memexp("diff", longer.name, f"{longer.name}@2-off")
    assert f"with the weights of {source.name}, trained on no more" in " ".join(capsys.readouterr().out.split())
    for words, said in (
        (
            ("data.source.question=qa4", "data.source.noise=none"),
            ("reads tokenizer", "expected the same"),
        ),  # of fewer words
        (("arch=knn", "arch.neighbours=2"), ("memories.1.gate_H", "nothing would", "expected the arch")),
    ):
        assert main(["train", *BABI, *scored, *words, f"root={tmp_path}"]) == 2
        assert says("memexp train: ", source.name, *said)(capsys.readouterr().err.splitlines()[-1])


@pytest.mark.hard
def test_what_is_not_trained_needs_weights() -> None:
    for words in ("optim.train=none", "optim.train=memory init_from=x", "optim.train=none init_from=x", "steps=0"):
        with pytest.raises(UserError, check=says("init_from=", "expected")):
            configure(*words.split())
    for size in ("tiny", "small", "200m"):
        assert scores_another(configure(f"size={size}", "steps=0", "init_from=x"))


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_the_corpus_of_a_run_is_chosen_when_it_is_trained(command: str) -> None:
    for key in ("data", "data.source.test_lengths", "data.name"):
        said = says(f"no setting {key}", "when it is trained", f"memexp train init_from=RUN steps=0 {key}=")
        assert said(unknown_setting(key, command))
    assert says("expected it with data=babi")(unknown_setting("data.source.noise", "train"))

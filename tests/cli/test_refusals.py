"""What is refused before any work: settings of Hydra that have no effect, sizes that no machine has, and more."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memexp.config.commands import COMMANDS
from memexp.config.introspection import choices_of
from memexp.errors import UserError

from ..messages import says
from ..tiny import configure

HYDRA = [
    ("hydra/sweeper=optuna", "expected checked"), ("hydra/sweeper=basic", "expected checked"), ("hydra.run.dir=x", "no effect"),
    ("hydra.verbose=true", "no effect"), ("hydra.job.name=x", "no effect"), ("hydra.job.chdir=true", "no effect"),
    ("hydra.output_subdir=x", "no effect"), ("hydra/job_logging=default", "no effect"), ("hydra/help=default", "no effect"),
    ("hydra.mode=MULTIRUN", "-m"), ("hydra.sweep.subdir=x", "no effect"), ("+hydra.nope=1", "no effect"), ("++hydra.run.dir=x", "no effect"),
    ("hydra.sweeper.params={mem:1}", "no effect"), ("hydra.launcher=", "empty"), ("hydra.sweep.dir=", "empty"), ("hydra=x", "no effect"),
]  # fmt: skip


def test_a_setting_of_hydra_without_effect_is_refused_by_every_command(memexp) -> None:
    for command in COMMANDS:
        for word, *words in HYDRA:
            for flags in ([], ["-m"]):
                result = memexp(command, *flags, word)
                assert (result.code, result.settings) == (2, [])
                assert says(word.partition("=")[0].lstrip("+"), "expected", *words)(result.err)


def test_what_only_a_sweep_uses_needs_its_flag(memexp) -> None:
    for word in ("hydra/launcher=local", "hydra.sweep.dir=there", "hydra.sweeper.max_batch_size=2"):
        result = memexp("train", word)
        assert (result.code, result.settings) == (2, [])
        assert says(word, "expected the flag -m")(result.err)


@pytest.mark.hard
def test_a_glob_means_only_what_can_be_chosen(memexp) -> None:
    for group in ("arch", "optim"):
        result = memexp("train", "-m", f"{group}=glob(*)", "mem=0", "--dry-run")
        chosen = {word.partition("=")[2] for word in result.out.split() if word.startswith(f"{group}=")}
        assert chosen == set(choices_of(group))


@pytest.mark.parametrize(
    "word", ["arch=[knn,xl]", "data=/etc/passwd", "data=../arch/knn", "data=", "arch=''", "size=a:b", "optim=a b"]
)
def test_a_choice_is_a_name(word, memexp) -> None:
    result = memexp("train", word)
    assert result.code == 2
    assert says(word.partition("=")[0], "expected one of")(result.err)


@pytest.mark.parametrize("word", ["seed=range(0,100000000000)", "seed=range(0,1000000)", "optim.rate=range(0,1,1e-9)"])
def test_a_sweep_without_end_is_refused_before_its_jobs_are_made(word, memexp) -> None:
    result = memexp("train", "-m", word, "--dry-run")
    assert result.code == 2
    assert says("jobs", "expected at most", "range")(result.err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["help", "trian"], "did you mean train?"),
        (["trian", "--help"], "did you mean train?"),
        (["--help", "trian"], "did you mean train?"),
        (["help", "train", "mem=x"], "mem is 'x'"),
        (["help", "train", "mm=1"], "did you mean mem?"),
        (["--version", "x"], "alone"),
        (["train", "--multirun=yes"], "no value"),
    ],
)
def test_words_of_help_are_not_ignored(words, said, memexp) -> None:
    result = memexp(*words)
    assert (result.code, result.out) == (2, "")
    assert says(said)(result.err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduce", "memorizing/table4", "seeds=[0,1,0]"], "seeds is [0, 1, 0]; expected each seed only once"),
        (["data", "inspect", "data=tiny", "ngram=1000000000"], "ngram is 1000000000; expected from 1 to 1024"),
    ],
)
def test_values_that_give_no_result_of_use_are_refused(words, said, memexp) -> None:
    result = memexp(*words)
    assert (result.code, result.settings) == (2, [])
    assert says(said)(result.err)


@pytest.mark.hard
@pytest.mark.parametrize("name", ["threads", "jobs", "size.layers"])
def test_counts_that_fail_in_a_library_are_refused(name, memexp) -> None:
    bare = {
        "eval": ["x"],
        "generate": ["x"],
        "reproduce": ["memorizing/table4"],
        "plan": ["memorizing/table4"],
        "diff": ["a", "b"],
    }
    for command in COMMANDS:
        result = memexp(command, *bare.get(command, []), f"{name}=100000000")
        assert result.code == 2
        assert says(name)(result.err)


@pytest.mark.parametrize(
    "words",
    [
        ["lanes=100000000"], ["segment=100000000"], ["size.width=100000000"], ["size.heads=100000000"], ["size.feedforward=10000000000"],
        ["size.head_size=100000000"], ["arch=xl", "mem=100000000000"], ["arch=knn", "mem=10000000000000"], ["arch=rmt", "mem=100000000"],
        ["arch=rmt", "mem=10", "bptt_segments=99999999", "accumulate=100000000"], ["lanes=1000000", "segment=4096"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_fit_with_its_activations_is_refused(words) -> None:
    from memexp.cost.memory import refuse_what_cannot_fit

    with pytest.raises(UserError, check=says("GB", "expected at most", "Likely cause")):
        refuse_what_cannot_fit(configure(*words), vocabulary=256)


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_words_of_a_text_are_refused_before_it_is_read(command: str, memexp) -> None:
    """The folder does not exist, which would be said if it was looked at."""
    words = ("data=babi", "data.source.noise=text", "data.path=/nowhere")
    result = memexp(command, *words)
    assert result.code == 2
    assert says("data.tokenizer.kind is words", "expected data.tokenizer.kind=bpe or bytes")(result.err)
    assert "not given" not in result.err
    assert memexp(command, *words, "data.tokenizer.kind=bytes").code == 0


def test_a_text_that_is_asked_for_alone_is_refused_with_all_that_it_needs(memexp) -> None:
    result = memexp("train", "data=babi", "data.source.noise=text")
    assert result.code == 2
    assert says("kind is words and data.path is not given", "kind=bpe or bytes and in data.path the folder")(result.err)


def test_a_segment_that_no_document_fills_is_refused() -> None:
    from memexp.cli.commands.train import _refuse_padding

    _refuse_padding(configure("segment=512"), 10)
    _refuse_padding(configure("segment=4096", "data.max_document=0"), 2049)
    with pytest.raises(UserError, check=says("segment is 100,000", "5,000", "expected segment=5000")):
        _refuse_padding(configure("segment=100000", "data.max_document=0"), 5000)
    with pytest.raises(UserError, check=says("segment is 4,096", "expected segment=1024")):
        _refuse_padding(configure("segment=4096", "data.max_document=1024"), 5000)


def test_lanes_that_read_the_same_text_are_warned_of() -> None:
    from memexp.cli.commands.train import _read_alike

    assert _read_alike(configure("lanes=8"), 1) == []  # each reads a random part
    whole = configure("lanes=8", "data.max_document=0")
    assert _read_alike(whole, 8) == []
    (line,) = _read_alike(whole, 7)
    assert says("8 lanes", "7 training documents", "data.max_document")(line.text)
    assert line.warns


def test_a_classifier_generates_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memexp.cli.commands import generate
    from memexp.config.commands import GenerateConfig

    run = SimpleNamespace(name="classifier")
    settings = SimpleNamespace(data=SimpleNamespace(task="classify"))
    monkeypatch.setattr("memexp.store.folder.find_run", lambda root, name: run)
    monkeypatch.setattr("memexp.store.identity.trained_settings", lambda run: settings)
    with pytest.raises(UserError, check=says("classifier", "task=classify", "expected")):
        generate.run(GenerateConfig(run="classifier", prompt="a", root=str(tmp_path)))


def test_compiling_needs_the_headers_of_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from memexp.train import compilation

    monkeypatch.setattr(compilation.sysconfig, "get_path", lambda name: str(tmp_path))
    missing = compilation.missing_compiler(torch.device("cpu"))
    assert says("headers", str(tmp_path))(str(missing))


@pytest.mark.parametrize(
    "config", [{"tag": "a\nb"}, {"tag": "\x1b["}, {"data": {"path": ""}}, {"root": "~nobody-of-this-name/x"}]
)
def test_a_file_of_settings_can_hold_no_such_text_either(config: dict[str, Any]) -> None:
    from omegaconf import OmegaConf

    from memexp.config.compose import typed

    from ..tiny import choose

    with pytest.raises(UserError, check=says("expected")):
        typed(OmegaConf.merge(choose(), OmegaConf.create(json.loads(json.dumps(config)))))

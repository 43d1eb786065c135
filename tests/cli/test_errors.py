"""What a user can get wrong: each is one line on stderr, with the values seen and expected, and exit code 2."""

import pytest

from memexp.config.commands import COMMANDS
from memexp.config.introspection import choices_of

from ..messages import says

NAMES = ", ".join(choices_of("arch"))

CASES = [
    ("trian", "'trian'", "expected", "prepare, data, train, eval, reproduce, plan, generate, table, diff, report, runs, bench, completion", "did you mean train?"),
    ("train lr=1 device=gpu", "lr;", "did you mean optim.rate? Try `memexp train optim.rate=1 device=cuda`"),
    ("train device=gpu", "device is 'gpu'", "expected one of auto, cpu, cuda", "did you mean cuda? Try `memexp train device=cuda`"),
    ("train memm=3", "memm", "expected", "`memexp train --help`", "did you mean mem?"),
    ("train arch.neighbors=3", "arch.neighbors;", "expected", "`memexp train --help`", "did you mean arch.neighbours?"),
    ("train neighbours=3", "neighbours;", "expected", "`memexp train --help`", "did you mean arch.neighbours?"),
    ("train arch.combine=joint", "arch.combine", "expected", "arch=knn or arch=knn_routed or arch=block_knn"),
    ("train data.tokenizer.kindd=bytes", "data.tokenizer.kindd", "expected", "`memexp train --help`", "did you mean data.tokenizer.kind?"),
    ("train +foo=3", "no setting foo", "expected", "--help"),
    ("train +arch.mixx=3", "no setting arch.mixx", "expected", "--help"),
    ("train +mem=3", ": mem ", "expected", "without the +"),
    ("train ~mem", ": mem ", "expected a value"),
    ("train arch=knnn", "arch=knnn", f"expected one of {NAMES}", "did you mean knn?"),
    ("train arch=null", "arch=null", f"expected one of {NAMES}"),
    ("train archh=knn", "archh", "expected", "`memexp train --help`", "did you mean arch?"),
    ("train tracker=3", "tracker=3", "expected one of none, tensorboard, wandb"),
    ("train hydra/launcher=joblib", "hydra/launcher=joblib", "not installed", "expected", "`pip install memexp[parallel]`"),
    ("train hydra/launcher=slurm", "hydra/launcher=slurm", "expected launcher=slurm"),
    ("train launcher=slrum", "launcher is 'slrum'", "expected one of local, slurm"),
    ("train slurm.time=3m", "slurm.time is 3m", "expected at least 5m"),
    ("train slurm.time=long", "slurm.time is 'long'", "expected a number", "90m or 2h"),
    ("train slurm.options=--nodes=2", "slurm.options", "nodes", "expected other options", "nodes="),
    ("train slurm.options=qos=x", "slurm.options", "'qos=x'", "expected", "--name=value"),
    ("train slurm.options='", "slurm.options", "expected a quote"),
    ("reproduce memorizing/table4 nodes=2 devices=2", "nodes is 2", "launcher is local", "expected launcher=slurm"),
    ("reproduce memorizing/table4 nodes=2 launcher=slurm", "nodes is 2", "devices is 0", "expected"),
    ("train mem=abc", "mem is 'abc'", "expected a whole number", "4096 or 64k"),
    ("train mem=1.3k", "mem is '1.3k'", "expected a whole number", "4096 or 64k"),
    ("train mem=", "mem is ''", "expected a whole number", "4096 or 64k"),
    ("train arch.normalise=maybe", "arch.normalise is 'maybe'", "expected true or false"),
    ("train optim.rate=fast", "optim.rate is 'fast'", "expected a number"),
    ("train optim.betas=[a,b]", "optim.betas is '[a,b]'", "expected a list in brackets", "number"),
    ("train optim=adamw optim.momentum=0.5", "optim.momentum is 0.5", "AdamW", "expected optim=adafactor"),
    ("train optim.factor_from=2", "optim.factor_from is 2", "AdamW", "expected optim=adafactor"),
    ("train optim=adafactor optim.momentum=1", "optim.momentum is 1.0", "expected at least 0 and less than 1"),
    ("train data.tokenizer=bytes", "data.tokenizer is 'bytes'", "expected", "data.tokenizer.kind="),
    ("train mem=0,8", "mem=0,8", "expected one value", "-m", "a list in brackets"),
    ("train mem=range(1,3)", "mem=range(1,3)", "expected one value", "-m", "a list in brackets"),
    ("train mem=[1", "'mem=[1'", "expected key=value", "quotes", "'key=\"a b\"'"),
    ("train mem=${nope}", "mem: ", "'nope' not found"),
    ("train =3", "'=3'", "before the =", "expected key=value"),
    ("train mem", "'mem'", "train takes", "key=value", "did you mean mem=0?"),
    ("train --multi", "--multi", "did you mean --multirun?"),
    ("train --cfg", "--cfg", "expected a value"),
    ("train --cfg all-of-it", "--cfg is 'all-of-it'", "expected one of job, hydra, all"),
    ("train mem=4096", "mem is 4096", "no memory", "expected mem=0", "arch=knn"),
    ("train arch=knn mem=4", "mem is 4", "arch.neighbours is 32", "expected"),
    ("train arch=knn_routed mem=100", "mem is 100", "arch.neighbours is 512", "expected"),
    ("train arch=block_knn arch.pairs=4", "arch.pairs is 4", "arch.neighbours is 32", "expected"),
    ("train arch=compressive segment=63", "segment is 63", "arch.factor 2", "multiple of arch.factor"),
    ("train arch=compressive arch.cache=9", "arch.cache is 9", "arch.factor 2", "multiple of arch.factor"),
    ("train arch=compressive arch.factor=0", "arch.factor is 0", "expected at least 1"),
    ("train arch=rmt mem=0 bptt_segments=3", "bptt_segments is 3", "mem is 0", "expected bptt_segments=0", "a larger mem"),
    ("train arch=rmt mem=0 arch.aux_weight=0.5", "arch.aux_weight is 0.5", "mem is 0", "expected arch.aux_weight=0.0", "a larger mem"),
    ("train arch=block mem=0 arch.gate_kind=lstm", "arch.gate_kind is lstm", "mem is 0", "expected arch.gate_kind=fixed", "a larger mem"),
    ("train arch=thought mem=0 arch.recall=1", "arch.recall is 1.0", "mem is 0", "expected arch.recall=0.5", "a larger mem"),
    ("train arch=block_knn arch.write=leaving arch.cache_dropout=0.5", "arch.cache_dropout is 0.5", "arch.write is leaving", "expected arch.write=all", "arch.cache_dropout=0"),
    ("train arch.position=xl size.width=63", "size.width is 63", "expected an even number", "arch.position=xl"),
    ("train arch=knn arch.search=hashed", "arch.search is 'hashed'", "expected one of auto, exact, bucketed, faiss_flat, faiss_ivf, faiss_hnsw, routed"),
    ("train arch=knn_routed arch.stored_on=host", "arch.stored_on is host", "arch.search is routed", "expected arch.stored_on=device", "arch.search=exact"),
    ("train arch=knn arch.search=faiss_hnsw recompute=true", "recompute is true", "arch.search is faiss_hnsw", "expected recompute=false", "arch.search=faiss_ivf"),
    ("train arch=knn mem=99999999999999999999", "mem is 99999999999999999999", "expected", "2^48"),
    ("train steps=0", "steps is 0", "expected at least 1"),
    ("train precision=fp16", "precision is 'fp16'", "expected one of auto, fp32, bf16", "did you mean bf16?"),
    ("data list ngram=4", "ngram is 4", "`memexp data list`", "expected", "`memexp data inspect`"),
    ("data inspect code page=true", "page is true", "`memexp data inspect`", "expected", "`memexp data list`"),
    ("eval", "run is not given", "expected", "folder"),
    ("eval a b", "'b'", "eval takes RUN", "key=value"),
    ("diff a", "b is not given", "expected", "the same tokens"),
    ("completion fish", "fish", "expected one of bash, zsh"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in CASES], ids=[case[0] for case in CASES])
def test_one_line_and_exit_code_2(line, words, memexp) -> None:
    command = line.split()[0]
    result = memexp(*line.split())
    assert result.err.startswith(f"memexp {command}: " if command in COMMANDS else "memexp: ")
    assert says(*words)(result.err)
    assert (result.code, result.out, result.settings) == (2, "", [])


def test_unknown_config_dir_is_named(memexp) -> None:
    result = memexp("train", "--config-dir", "/nowhere/at/all")
    assert result.code == 2
    assert says("/nowhere/at/all")(result.err)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes. Error 12"
            ),
            ("memory", "(tried to allocate 40 bytes)", "expected", "Likely cause", "mem, lanes, segment"),
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            ("memory", "(tried to allocate 2.00 GiB)", "expected"),
        ),
        (MemoryError(), ("memory", "expected", "Likely cause")),
        (
            OSError(30, "Read-only file system", "/some/run"),
            ("/some/run: Read-only file system", "expected"),
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, words, memexp, monkeypatch) -> None:
    from memexp.cli import main

    def lacking(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "_dispatch", lacking)
    result = memexp("train")
    assert result.code == 2
    assert says("memexp train: ", *words)(result.err)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), OSError(5, "Input/output error")])
def test_other_errors_of_the_system_keep_theirs(error, memexp, monkeypatch) -> None:
    from memexp.cli import main

    def broken(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "_dispatch", broken)
    with pytest.raises(type(error)):
        memexp("train")


def test_an_interrupted_command_says_whether_it_goes_on(memexp, monkeypatch) -> None:
    from memexp.cli import main

    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_dispatch", interrupted)
    assert says("memexp prepare: interrupted; `memexp prepare data=code` continues")(memexp("prepare", "data=code").err)
    assert says("memexp eval: interrupted")(error := memexp("eval", "RUN").err)
    assert "continues" not in error


def test_a_bug_keeps_its_traceback(memexp, monkeypatch) -> None:
    from memexp.cli import main

    monkeypatch.setattr(main, "_dispatch", lambda words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        memexp("runs")

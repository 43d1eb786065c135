"""What a user can get wrong: each is one line on stderr, word for word, and exit code 2."""

import pytest

from memexp.config.introspection import choices_of

NAMES = ", ".join(choices_of("arch"))

CASES = [
    ("trian", "memexp: there is no command 'trian'; expected one of prepare, data, train, eval, reproduce, plan, generate, table, diff, report, runs, bench, completion; did you mean train?"),
    ("train memm=3", "there is no setting memm; expected a setting that `memexp train --help` lists; did you mean mem?"),
    ("train arch.neighbors=3", "there is no setting arch.neighbors; expected a setting that `memexp train --help` lists; did you mean arch.neighbours?"),
    ("train neighbours=3", "there is no setting neighbours; expected a setting that `memexp train --help` lists; did you mean arch.neighbours?"),
    ("train arch.combine=joint", "this architecture has no setting arch.combine; expected arch=knn or arch=knn_routed or arch=block_knn with it"),
    ("train data.tokenizer.kindd=bytes", "there is no setting data.tokenizer.kindd; expected a setting that `memexp train --help` lists; did you mean data.tokenizer.kind?"),
    ("train +foo=3", "there is no setting foo; expected a setting that --help lists"),
    ("train +arch.mixx=3", "there is no setting arch.mixx; expected a setting that --help lists"),
    ("train +mem=3", "mem is a setting already; expected it without the + before it"),
    ("train ~mem", "mem was removed with ~; expected a value, because every setting needs one"),
    ("train arch=knnn", f"there is no arch=knnn; expected one of {NAMES}; did you mean knn?"),
    ("train arch=null", f"there is no arch=null; expected one of {NAMES}"),
    ("train archh=knn", "there is no setting archh; expected a setting that `memexp train --help` lists; did you mean arch?"),
    ("train tracker=3", "there is no tracker=3; expected one of none, tensorboard, wandb"),
    ("train hydra/launcher=submitit_slurm", "hydra/launcher=submitit_slurm is not installed; expected `pip install memexp[slurm]` first"),
    ("train mem=abc", "mem is 'abc'; expected a whole number, such as 4096 or 64k"),
    ("train mem=1.3k", "mem is '1.3k'; expected a whole number, such as 4096 or 64k"),
    ("train mem=", "mem is ''; expected a whole number, such as 4096 or 64k"),
    ("train arch.normalise=maybe", "arch.normalise is 'maybe'; expected true or false"),
    ("train optim.rate=fast", "optim.rate is 'fast'; expected a number"),
    ("train optim.betas=[a,b]", "optim.betas is '[a,b]'; expected a list in brackets, each a number"),
    ("train data.tokenizer=bytes", "data.tokenizer is 'bytes'; expected its settings one by one, such as data.tokenizer.kind=..."),
    ("train mem=0,8", "mem=0,8 is a sweep over several values; expected one value, or the flag -m, or a list in brackets"),
    ("train mem=range(1,3)", "mem=range(1,3) is a sweep over several values; expected one value, or the flag -m, or a list in brackets"),
    ("train mem=[1", "cannot read 'mem=[1'; expected key=value. A value with special characters needs quotes inside the shell's quotes: 'key=\"a b\"'"),
    ("train mem=${nope}", "mem: Interpolation key 'nope' not found"),
    ("train =3", "'=3' has no key before the =; expected key=value"),
    ("train mem", "cannot place 'mem': train takes settings only; settings are written key=value; did you mean mem?"),
    ("train --multi", "there is no flag --multi; did you mean --multirun?; settings are written key=value"),
    ("train --cfg", "--cfg is the last word; expected a value after it"),
    ("train --cfg all-of-it", "--cfg is 'all-of-it'; expected one of job, hydra, all"),
    ("train mem=4096", "mem is 4096 but this architecture has no memory; expected mem=0, or an architecture that has one, such as arch=knn"),
    ("train arch=knn mem=4", "mem is 4 but arch.neighbours is 32; expected a memory that holds at least arch.neighbours pairs"),
    ("train arch=knn_routed mem=100", "mem is 100 but arch.neighbours is 512; expected a memory that holds at least arch.neighbours pairs"),
    ("train arch=block_knn arch.pairs=4", "arch.pairs is 4 but arch.neighbours is 32; expected a memory that holds at least arch.neighbours pairs"),
    ("train arch=compressive segment=63", "segment is 63 and arch.factor 2; expected segment to be a multiple of arch.factor, because tokens leave the cache in whole groups"),
    ("train arch=compressive arch.cache=9", "arch.cache is 9 and arch.factor 2; expected arch.cache to be a multiple of arch.factor, because tokens leave the cache in whole groups"),
    ("train arch=compressive arch.factor=0", "arch.factor is 0; expected at least 1 token"),
    ("train arch=rmt mem=0 bptt_segments=3", "bptt_segments is 3 but mem is 0, so there is no memory through which a gradient could cross a segment border; expected bptt_segments=0, or a larger mem"),
    ("train arch=rmt mem=0 arch.aux_weight=0.5", "arch.aux_weight is 0.5 but mem is 0, so it has no effect; expected arch.aux_weight=0.0, or a larger mem"),
    ("train arch=block mem=0 arch.gate_kind=lstm", "arch.gate_kind is lstm but mem is 0, so it has no effect; expected arch.gate_kind=fixed, or a larger mem"),
    ("train arch=thought mem=0 arch.recall=1", "arch.recall is 1.0 but mem is 0, so it has no effect; expected arch.recall=0.5, or a larger mem"),
    ("train arch=block_knn arch.write=leaving arch.cache_dropout=0.5", "arch.cache_dropout is 0.5 but arch.write is leaving, and from an emptied cache no pairs leave to be stored; expected arch.write=all, or arch.cache_dropout=0"),
    ("train arch.position=xl size.heads=1 size.head_size=7", "size.heads is 1 and size.head_size 7; expected an even product with arch.position=xl, which pairs sines with cosines"),
    ("train arch=knn arch.search=hashed", "arch.search is 'hashed'; expected one of auto, exact, bucketed, faiss_flat, faiss_ivf, faiss_hnsw, routed"),
    ("train arch=knn_routed arch.stored_on=host", "arch.stored_on is host but arch.search is routed, which scores every pair on the model's device; expected arch.stored_on=device, or arch.search=exact"),
    ("train arch=knn arch.search=faiss_hnsw recompute=true", "recompute is true but arch.search is faiss_hnsw, which can find other neighbours when a segment is computed again; expected recompute=false, or arch.search=faiss_ivf"),
    ("train arch=knn mem=99999999999999999999", "mem is 99999999999999999999; expected less than 2^48"),
    ("train steps=0", "steps is 0; expected at least 1 step"),
    ("train precision=fp16", "precision is 'fp16'; expected one of fp32, bf16; did you mean bf16?"),
    ("data list ngram=4", "ngram is 4, but `memexp data list` does not use it; expected it with `memexp data inspect`"),
    ("data inspect code page=true", "page is true, but `memexp data inspect` does not use it; expected it with `memexp data list`"),
    ("eval", "run is not given; expected a run's folder, or the start of its name"),
    ("eval a b", "cannot place 'b': eval takes RUN only; settings are written key=value"),
    ("diff a", "b is not given; expected another run or score, of the same tokens"),
    ("completion fish", "memexp: the shell is fish; expected one of bash, zsh"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_one_line_and_exit_code_2(line, message, memexp) -> None:
    words = line.split()
    result = memexp(*words)
    prefix = "" if message.startswith("memexp:") else f"memexp {words[0]}: "
    assert result.err == f"{prefix}{message}\n"
    assert (result.code, result.out, result.settings) == (2, "", [])


def test_unknown_config_dir_is_named(memexp) -> None:
    result = memexp("train", "--config-dir", "/nowhere/at/all")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "/nowhere/at/all" in result.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes. Error 12"
            ),
            "out of memory (tried to allocate 40 bytes); expected a run that fits. Likely cause: mem, lanes, segment or the",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "out of memory (tried to allocate 2.00 GiB);",
        ),
        (MemoryError(), "out of memory; expected a run that fits."),
        (
            OSError(30, "Read-only file system", "/some/run"),
            "cannot use /some/run: Read-only file system; expected a place",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, said, memexp, monkeypatch) -> None:
    from memexp.cli import main

    def lacking(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "_dispatch", lacking)
    result = memexp("train")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"memexp train: {said}")


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
    assert memexp("prepare").err == "memexp prepare: interrupted; the same command continues from there\n"
    assert memexp("eval", "RUN").err == "memexp eval: interrupted\n"


def test_a_bug_keeps_its_traceback(memexp, monkeypatch) -> None:
    from memexp.cli import main

    monkeypatch.setattr(main, "_dispatch", lambda words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        memexp("runs")

"""memexp generate: what is text goes to stdout as it is drawn, everything else to stderr, and mistakes are one line."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memexp.api import load
from memexp.cli.commands.generate import _Output
from memexp.cli.main import main
from memexp.data.corpus import Corpus
from memexp.data.library import prepare
from memexp.eval import generate as module
from memexp.eval.evaluate import load_model, reopen
from memexp.eval.generate import Drawn, Sampling, generate
from memexp.store.folder import Run
from memexp.train.loop import train
from memexp.train.spec import specify

from ..messages import says
from ..tiny import configure

PROMPT = "def f(x, y):\n    return '${x}', \"{y}\" # é" * 3
"""Longer than a segment, with signs that mean something to Hydra."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def corpus(root: Path) -> Corpus:
    return prepare(configure().data, root)


@pytest.fixture(scope="module")
def run(root: Path, corpus: Corpus) -> Run:
    return train(specify(configure("arch=knn", "steps=1"), corpus, root), command="memexp train")


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(run: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command on the run; exit code, stdout, stderr."""

    def called(*words: str) -> tuple[int, str, str]:
        code = main(["generate", run.name, f"root={root}", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return called


def test_an_empty_file_is_no_prompt(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    code, out, err = call(f"prompt_file={tmp_path / 'empty.txt'}")
    assert (code, out) == (2, "")
    assert says("prompt", "no token", "expected")(err)


def test_a_prompt_is_not_read_from_what_may_have_no_end(call: Call, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        code, out, err = call(f"prompt_file={place}", "tokens=2")
        assert (code, out) == (2, "")
        assert says("prompt_file", str(place), "expected a text file")(err)


def test_stdout_is_the_text_and_stderr_how_it_went(call: Call, run: Run, corpus: Corpus, root: Path) -> None:
    code, out, err = call(f"prompt={PROMPT}", "tokens=50", "seed=3", "temperature=0.7", "top_k=90", "top_p=0.9")
    model = load_model(reopen(run, run.settings, root), memory="on", device="cpu")
    text = corpus.tokenizer.encode(PROMPT)
    drawn = list(generate(model, text, tokens=50, lanes=1, sampling=Sampling(0.7, 90, 0.9), seed=3))
    expected = corpus.tokenizer.decode([int(each.tokens_B) for each in drawn])
    assert (code, out) == (0, expected if expected.endswith("\n") else f"{expected}\n")
    assert err.startswith(f"50 tokens after a prompt of {len(text)} in ")
    assert err.count("\n") == 1
    assert err.endswith(f" tokens/s), {float(torch.cat([each.nats_B for each in drawn]).mean()):.4f} nats per token\n")


@pytest.mark.hard
def test_the_same_command_writes_the_same_text(call: Call) -> None:
    first, again, other, full, small, off = (
        call(f"prompt={PROMPT}", "tokens=80", *words)[1]
        for words in ([], [], ["seed=1"], ["mem=64"], ["mem=32"], ["memory=off"])
    )
    assert first == again == full
    assert len({first, other, small, off}) == 4


def test_a_file_is_continued_as_it_is(call: Call, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(PROMPT.encode())
    assert call(f"prompt_file={tmp_path / 'prompt'}", "tokens=20")[1] == call(f"prompt={PROMPT}", "tokens=20")[1]


def test_samples_are_the_lanes_one_after_another(call: Call, run: Run, corpus: Corpus, root: Path) -> None:
    _, out, err = call("prompt=import", "tokens=30", "samples=3")
    model = load_model(reopen(run, run.settings, root), memory="on", device="cpu")
    text = corpus.tokenizer.encode("import")
    drawn = list(generate(model, text, tokens=30, lanes=3, sampling=Sampling(), seed=0))
    texts = [corpus.tokenizer.decode(lane) for lane in np.stack([each.tokens_B for each in drawn], 1).tolist()]
    assert out == "".join(each if each.endswith("\n") else f"{each}\n" for each in texts)
    assert err.splitlines()[:3] == ["sample 1 of 3", "sample 2 of 3", "sample 3 of 3"]
    assert err.splitlines()[3].startswith("90 tokens after")


def test_a_prompt_reaches_the_settings_as_it_was_typed(memexp: Callable[..., Any]) -> None:
    for text in (PROMPT, "null", "[1", "a,b", " a ", "\\${x}", "it's\\", "${a:b}'${c"):
        [settings] = memexp("generate", "RUN", f"prompt={text}", "tokens=2k").settings
        assert (settings.prompt, settings.tokens) == (text, 2048)


# ---------------------------------------------------------------------------------------------- refusals

REFUSED = [
    (["prompt="], "prompt is empty", "expected", "prompt_file"),
    ([], "prompt is empty", "expected", "prompt_file"),
    (["prompt=a", "prompt_file=b"], "prompt and prompt_file", "expected one"),
    (["prompt_file=/none"], "prompt_file /none", "No such file or directory", "expected", "text"),
    (["prompt=a\udcff"], "prompt", "byte 1", "expected", "UTF-8"),
    (["prompt=a", "temperature=-1"], "temperature is -1.0", "expected at least 0"),
    (["prompt=a", "top_p=1.1"], "top_p is 1.1", "expected from 0 to 1"),
    (["prompt=a", "tokens=0"], "tokens is 0", "expected at least 1"),
    (["prompt=a", "memory=foreign"], "memory is 'foreign'", "expected one of on, off"),
    (["prompt=a", "memory=off", "mem=0"], "memory is off", "no memory", "expected memory=on"),
    (["prompt=a", "mem=3"], "mem is 3", "arch.neighbours is 32"),
]


@pytest.mark.parametrize(
    ("settings", "words"), [(typed, words) for typed, *words in REFUSED], ids=[" ".join(case[0]) for case in REFUSED]
)
def test_mistakes_are_one_line(settings: list[str], words: list[str], call: Call) -> None:
    code, out, err = call(*settings)
    assert (code, out) == (2, "")
    assert says("memexp generate: ", *words)(err)


def test_a_run_that_is_not_done_is_refused(call: Call, run: Run) -> None:
    summary = run.path / "summary.json"
    kept = summary.read_bytes()
    summary.unlink()
    try:
        code, out, err = call("prompt=a")
    finally:
        summary.write_bytes(kept)
    assert (code, out) == (2, "")
    assert says(run.name, "not done", "stopped", "expected")(err)


# --------------------------------------------------------------------------------------------- streaming


def drawing(monkeypatch: pytest.MonkeyPatch, steps: Callable[[], Iterator[Any]]) -> None:
    """Let the command draw what `steps` yields."""
    monkeypatch.setattr(module, "generate", lambda *arguments, **options: steps())


def one(corpus: Corpus, byte: int) -> Drawn:
    """The token that is this byte, at 2 nats."""
    pieces = corpus.tokenizer.pieces(range(corpus.vocabulary))
    return Drawn(torch.tensor([pieces.index(bytes([byte]))]), torch.tensor([2.0]))


def test_text_is_written_as_it_is_drawn(call: Call, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """And out of the buffer, so that a reader has it."""
    seen, reached = [], io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(reached, encoding="utf-8"))

    def steps() -> Iterator[Drawn]:
        for byte in b"a\xe2\x82\xac\xffb\xc3":  # a character of three bytes, one that none begins with, and a cut one
            yield one(corpus, byte)
            seen.append(reached.getvalue().decode())

    drawing(monkeypatch, steps)
    code, _, err = call("prompt=a")
    assert seen == ["a", "a", "a", "a€", "a€�", "a€�b", "a€�b"]
    assert (code, reached.getvalue().decode()) == (0, "a€�b�\n")
    assert err.startswith("7 tokens ")
    assert err.endswith(" 2.0000 nats per token\n")


def test_where_a_gpu_was_hoped_for_the_device_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr. With a build of torch for CPUs alone nobody hoped for one."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    _, _, err = call("prompt=a", "tokens=1")
    assert says("device: ", "no GPU")(err.splitlines()[0])
    _, _, err = call("prompt=a", "tokens=1", "device=cpu")
    assert "device" not in err


def test_ctrl_c_keeps_what_was_written(call: Call, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps() -> Iterator[Drawn]:
        yield one(corpus, ord("a"))
        yield one(corpus, ord("b"))
        raise KeyboardInterrupt

    drawing(monkeypatch, steps)
    code, out, err = call("prompt=a")
    assert (code, out) == (130, "ab\n")
    assert err.startswith("2 tokens after")
    assert err.endswith("memexp generate: interrupted\n")


@pytest.mark.parametrize(("terminal", "shown"), [(True, "␛[2J␍\tä\n"), (False, "\x1b[2J\r\tä\n")])
def test_a_terminal_is_shown_control_characters_and_not_sent_them(
    terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    output = _Output(1, 1)
    output.add(["\x1b[2J\r\tä".encode()], 1.0)
    output.end()
    assert capsys.readouterr().out == shown


def test_a_build_for_amd_says_why_it_is_not_on_a_gpu(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.3")
    code, _, err = call("prompt=ab", "tokens=1", "device=auto")
    assert code == 0
    assert says("device:", "no GPU")(next(line for line in err.splitlines() if line.startswith("device")))


@pytest.mark.hard
def test_wherever_a_model_is_read_in_bf16_that_is_imitated_a_line_says_so(
    root: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = train(specify(configure("arch=vanilla", "steps=1", "precision=bf16"), corpus, root), command="memexp train")
    for slow in (True, False):
        monkeypatch.setattr("memexp.train.remarks.slow_here", lambda device, slow=slow: slow)
        capsys.readouterr()
        assert main(["eval", half.name, f"root={root}", "device=cpu"]) == 0
        assert main(["generate", half.name, f"root={root}", "prompt=ab", "tokens=1", "device=cpu"]) == 0
        load(half.name, root=root, device="cpu")
        assert capsys.readouterr().err.count("precision=bf16: this CPU has no instructions for it") == 3 * slow

"""What people type who come from other programs: each is answered in one line, with the whole command line as it should be."""

import shlex

import pytest

from memexp.cli.arguments import parse
from memexp.cli.guesses import try_instead
from memexp.config.commands import COMMANDS
from memexp.errors import UserError

from ..messages import says

GUESSES = {
    # training
    "train lr=1e-3": "train optim.rate=1e-3",
    "train learning_rate=1e-3": "train optim.rate=1e-3",
    "train learning-rate=1e-3": "train optim.rate=1e-3",
    "train optim.lr=1e-3": "train optim.rate=1e-3",
    "train optimizer.lr=1e-3": "train optim.rate=1e-3",
    "train +lr=1e-3": "train optim.rate=1e-3",
    "train --lr 1e-3": "train optim.rate=1e-3",
    "train --lr=1e-3": "train optim.rate=1e-3",
    "train rate=1e-3": "train optim.rate=1e-3",
    "train min_lr=1e-5": ["expected optim.floor"],
    "train weight_decay=0.1": "train optim.weight_decay=0.1",
    "train warmup=10": "train optim.warmup=10",
    "train warmup_steps=10": "train optim.warmup=10",
    "train grad_clip=1": "train optim.clip=1",
    "train optimizer=adam": "train optim=adamw",
    "train batch_size=16": "train lanes=16",
    "train bs=16": "train lanes=16",
    "train --batch-size 16": "train lanes=16",
    "train grad_accum=4": "train accumulate=4",
    "train gradient_accumulation_steps=4": "train accumulate=4",
    "train epochs=3": ["expected steps=N"],
    "train max_steps=10": "train steps=10",
    "train --max_steps=10": "train steps=10",
    "train steps": ["did you mean steps=1000?"],
    "train steps 10": "train steps=10",
    "train context=1k": "train segment=1k",
    "train context_length=1k": "train segment=1k",
    "train seq_len=1k": "train segment=1k",
    "train block_size=1k": "train segment=1k",
    "train resume=true": "train",
    "train --resume": "train",
    "train checkpoint=RUN": ["init_from=RUN", "continues when its command is given again"],
    "train +mem=3": "train mem=3",
    "train --dryrun": "train --dry-run",
    "train dry_run": "train dry_run=true",
    # the machine
    "train gpu=true": "train device=cuda",
    "train --gpu": "train device=cuda",
    "train gpus=2": "train devices=2",
    "train device=gpu": "train device=cuda",
    "train device=cuda:0": "train device=cuda",
    "train device=cuda:1": "CUDA_VISIBLE_DEVICES=1 memexp train device=cuda",
    "train fp16=true": "train precision=bf16",
    "train bf16=1": "train precision=bf16",
    "train amp=true": "train precision=bf16",
    "train precision=fp16": "train precision=bf16",
    "train dtype=bfloat16": "train precision=bf16",
    "train num_workers=4": "train",
    # the network and its memory
    "train n_layer=2": "train size.layers=2",
    "train n_head=2": "train size.heads=2",
    "train d_model=64": "train size.width=64",
    "train n_embd=64": "train size.width=64",
    "train hidden_size=64": "train size.width=64",
    "train dropout=0.1": "train arch.dropout=0.1",
    "train model=knn": "train arch=knn",
    "train --arch=knn": "train arch=knn",
    "train --arch knn": "train arch=knn",
    "train -arch knn": "train arch=knn",
    "train arch=KNN": "train arch=knn",
    "train arch=transformer-xl": "train arch=xl",
    "train arch=TransformerXL": "train arch=xl",
    "train arch=memorizing": "train arch=knn",
    "train knn": "train arch=knn",
    "train arch=knn memory=65536": "train arch=knn mem=65536",
    "train arch=knn mem_size=65536": "train arch=knn mem=65536",
    "train arch=knn topk=32": "train arch=knn arch.neighbours=32",
    "train arch=knn k=32": "train arch=knn arch.neighbours=32",
    "generate RUN k=32": "generate RUN top_k=32",
    "eval RUN memory=65536": "eval RUN mem=65536",
    "eval RUN batch_size=4": "eval RUN eval.lanes=4",
    # text, names and folders
    "train dataset=code": "train data=code",
    "train data=wikitext": "train data=wikitext103",
    "train data_dir=DIR": "train data=text data.path=DIR",
    "prepare code": "prepare data=code",
    "train wandb=true": "train tracker=wandb",
    "train output_dir=DIR": "train root=DIR",
    "table output_dir=DIR": "table out=DIR",
    "train run_name=a": "train tag=a",
    "generate RUN max_new_tokens=30": "generate RUN tokens=30",
    # experiments and commands
    "table table4": ["memorizing/table4"],
    "reproduce table4": "reproduce memorizing/table4",
    "plan table4": "plan memorizing/table4",
    "train table4": "reproduce memorizing/table4",
    "train memorizing/table4": "reproduce memorizing/table4",
    "train +experiment=memorizing/table4": "reproduce memorizing/table4",
    "train experiment=memorizing/table4": "reproduce memorizing/table4",
    "memorizing/table4": "reproduce memorizing/table4",
    "memorizing/table4 --dry-run": "reproduce memorizing/table4 --dry-run",
    "run": ["`memexp train`", "`memexp runs`"],
    "run arch=knn": ["`memexp train`", "`memexp runs`"],
    "test RUN": "eval RUN",
    "evaluate RUN mem=8k": "eval RUN mem=8k",
    "trian model=knn": "train arch=knn",
    # several at once
    "train lr=1e-3 batch-size=4 arch=KNN device=gpu seed=1": "train optim.rate=1e-3 lanes=4 arch=knn device=cuda seed=1",
    "train -m arch=KNN,XL lr=1e-3,1e-4": "train -m arch=knn,xl optim.rate=1e-3,1e-4",
    "bench serch stpe": "bench search step",
    "train foo=3 lr=1": ["no setting foo"],
    "train seed=1 trakcer=wandb": "train seed=1 tracker=wandb",
    "eval seed=3": ["a setting of `memexp train`"],
}
"""A guess, and the command line that answers it, or words of the answer where only the user knows the rest."""

BY_THE_COMMAND = ("table table4", "reproduce table4", "plan table4")
"""Refused by the command itself, which here does not run."""


def is_answer(meant: str | list[str], message: str) -> bool:
    """Whether a message has the line, or these words and no line."""
    if isinstance(meant, list):
        return says(*meant)(message) and " Try " not in message
    return says(f" Try `{meant if ' memexp ' in meant else f'memexp {meant}'}`")(message)


def test_every_guess_is_answered_with_the_right_line() -> None:
    for guess, meant in GUESSES.items():
        command, *rest = guess.split()
        message = ""
        try:
            message = "nothing" if command not in COMMANDS else str(parse(command, rest))
        except UserError as error:
            message = str(error)
        if isinstance(meant, list):
            assert try_instead(guess.split()) == "" or guess in BY_THE_COMMAND
        else:
            assert is_answer(meant, message + try_instead(guess.split())), guess


@pytest.mark.hard
@pytest.mark.parametrize("guess", [guess for guess in GUESSES if guess not in BY_THE_COMMAND])
def test_a_guess_is_one_line_of_the_program(guess, memexp) -> None:
    result = memexp(*guess.split())
    assert (result.code, result.out, result.settings) == (2, "", [])
    error = result.err.splitlines()[-1] if " -m " in guess else result.err  # the jobs of a sweep have a line each
    assert is_answer(GUESSES[guess], error)


@pytest.mark.parametrize(
    "guess", [BY_THE_COMMAND[0], *(pytest.param(guess, marks=pytest.mark.hard) for guess in BY_THE_COMMAND[1:])]
)
def test_a_guess_that_the_command_refuses(guess, empty, capsys) -> None:
    from memexp.cli.main import main

    assert main([*guess.split(), f"root={empty}"]) == 2
    assert says("did you mean memorizing/table4?", f" Try `memexp {guess.replace('table4', 'memorizing/table4')}")(
        capsys.readouterr().err
    )


@pytest.mark.hard
def test_the_lines_are_taken_when_they_are_pasted(memexp) -> None:
    for guess, meant in GUESSES.items():
        if not isinstance(meant, list) and guess != "train +mem=3":  # which needs an architecture with a memory
            words = shlex.split(meant.rpartition("memexp ")[2])
            result = memexp(*words, *(["--dry-run"] if "-m" in words else []))
            assert result.code == 0, (meant, result.err)


@pytest.mark.parametrize(
    "right",
    [
        "train arch=knn mem=64k", "train -m arch=knn,xl 'mem=0,8k' --dry-run", "eval RUN mem=8", "table a b tag=x", "diff a b",
        "train --config-dir DIR arch=own", "generate RUN 'prompt=lr=3 --gpu'", "data inspect code", "runs", "bench search step",
        "train ~tag", "train hydra/launcher=local -m", "reproduce memorizing/table4 data=code", "train data.path=a=b", "table ./a=b",
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(right) -> None:
    assert try_instead(shlex.split(right)) == ""


def test_no_line_can_make_it_fail(chance) -> None:
    """Words in any order and of any signs: it gives a line or none."""
    pieces = [
        "train",
        "eval",
        "lr",
        "=",
        "--",
        "-m",
        "arch",
        "knn",
        ",",
        "[",
        "'",
        "${",
        "\udcff",
        "\n",
        "+",
        "~",
        "1",
        " ",
        "é",
        ".",
        "/",
    ]
    for _ in range(300):
        words = ["".join(chance.choices(pieces, k=chance.randint(0, 4))) for _ in range(chance.randint(0, 5))]
        assert isinstance(try_instead(words), str)
        assert isinstance(try_instead([chance.choice([*COMMANDS]), *words]), str)


def test_a_value_with_spaces_is_quoted_for_the_shell() -> None:
    assert try_instead(["train", "lr=1", "tag=a b"]) == " Try `memexp train optim.rate=1 'tag=a b'`"


def test_a_bare_word_with_many_meanings_gets_no_suggestion() -> None:
    with pytest.raises(UserError) as caught:  # a size and a corpus
        parse("train", ["tiny"])
    assert "did you mean" not in str(caught.value)

"""Whatever a person types is taken as meant or refused in one line: walked over every setting of every command."""

from dataclasses import field, make_dataclass
from functools import cache

import pytest

from memexp.cli.arguments import POSITIONALS, parse
from memexp.config.checks import check
from memexp.config.commands import COMMANDS
from memexp.config.field import AS_TYPED
from memexp.config.introspection import TYPED_AS, is_list, is_offered, settings_of, value_type
from memexp.config.words import is_text, typed_again
from memexp.errors import UserError

from ..messages import says

SETTINGS = [(command, name, item) for command in COMMANDS for name, item in settings_of(command).items()]
TEXTS = [
    *{(name, item.metadata["unit"]): (command, name) for command, name, item in SETTINGS if is_text(item)}.values()
]
NUMBERS = [
    *{
        name: (command, name, item)
        for command, name, item in SETTINGS
        if value_type(item) in (int, float) and is_offered(name)
    }.values()
]

EMPTY_SAYS_SOMETHING = {"generate prompt", "category", "form", "folder", "group", "options", "setup"}
ODD = [
    "a,b", "a, b", "[a]", "[a", "{a}", "a}", "(a)", "choice(a)", "range(1,3)", "'a'", "'a", '"a"', 'a"', "it's", "a=b", "a b", " a", "a ",
    "$a", "${a}", "${oc.env:HOME}", r"\${a}", r"a\\", r"a\b", "a\\'", "#a", "a#b", "a:b", "a: b", "~a/b", "a~", "*", "?", "a|b", "a&b", "a;b",
    "<a>", "%", "@", "!", "-", "--a", "64k", "true", "inf", "nan", "1e3", "0x10", "é", "日本", "🙂", "a/../b", "+a",
]  # fmt: skip
"""Texts with signs that mean something to Hydra, to YAML or to the shell."""

UNREADABLE = [
    "caf\udce9",
    "a\x00b",
    "a\nb",
    "a\rb",
    "a\tb",
    "\x1b[31m",
    "a\x7fb",
    "a\x85b",
    "a\x9bb",
    "a\u2028b",
    "a\u202eb",
    "\u2066a",
    "\ud800",
]

NO_NUMBERS = [
    "nan", "NaN", "inf", "-inf", "1e999", "0x10", "0b1", "1_000", "1'000", "1 000", "007", "-0", "1.2.3", "1k2", "--1", "", " ", "ten", "1%",
    "true", "٣", "\uff11", "1e", "1e5.0", "9" * 400 + "x",
]  # fmt: skip
"""Refused by every numeric setting."""


@cache
def parser():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def read(override: str) -> object:
    """The value that a setting gets: as Hydra's grammar and then OmegaConf read it."""
    from omegaconf import OmegaConf

    value = OmegaConf.create({"value": parser().parse_override(override).value()})
    return OmegaConf.to_container(value, resolve=True)["value"]


def refused(command: str, *words: str) -> str:
    """The message that these words get."""
    with pytest.raises(UserError) as caught:
        parse(command, list(words))
    assert says("expected")(caught.value)
    return str(caught.value)


def test_an_empty_text_is_refused_by_every_setting_in_which_it_says_nothing() -> None:
    walked = 0
    for command, name, item in SETTINGS:
        if value_type(item) is not str or name.rpartition(".")[2] in EMPTY_SAYS_SOMETHING or is_list(item):
            continue
        if f"{command} {name}" in EMPTY_SAYS_SOMETHING:
            continue
        for empty in ("", " ", "  ", "???"):
            assert name in refused(command, f"{name}={empty}")
            assert name in refused(command, "-m", f"{name}={empty}")
            if is_text(item) and item.metadata["unit"] != AS_TYPED:
                assert name in refused(command, "-m", f"{name}=a,{empty},b")
            walked += 1
    assert walked > 300


def test_an_empty_word_is_no_run_and_no_name() -> None:
    for command, names in POSITIONALS.items():
        if settings_of(command).get(names[0]) is not None:
            assert "empty" in refused(command, "")
    assert "empty" in refused("train", "--config-dir", "")
    assert "empty" in refused("train", "--config-dir=")
    assert "data" in refused("table", "data=")


@pytest.mark.parametrize(
    "line",
    ["data.path=", "root=", "tag=", "init_from=", "data.tokenizer.path=", "data.source.suffixes=['']", "data=''"],
)
def test_nothing_starts_with_an_empty_value(line, memexp) -> None:
    result = memexp("train", line)
    assert (result.code, result.settings) == (2, [])
    assert says("expected")(result.err)


@pytest.mark.hard
def test_a_text_is_taken_as_typed_by_every_setting() -> None:
    walked = 0
    for command, name in TEXTS:
        for text in ODD:
            [override] = parse(command, [f"{name}={text}"]).overrides
            assert read(override) == text, override
            assert typed_again(override, settings_of(command)) == f"{name}={text}"
            walked += 1
    assert walked > 1000


def test_bare_words_are_taken_as_typed() -> None:
    for command, names in POSITIONALS.items():
        item = settings_of(command).get(names[0])
        if item is None or item.metadata["choices"]:
            continue
        for text in [each for each in ODD if not each.startswith(("-", "~")) and "=" not in each]:
            [override] = parse(command, [text]).overrides
            assert read(override) == ([text] if is_list(item) else text)


@pytest.mark.parametrize("path", ["/a=b/c", "./a=b", "../a=b,c", "/tmp/[a]", "~nobody-of-this-name/x=1"])
def test_a_bare_word_that_begins_as_a_path_is_one(path) -> None:
    [override] = parse("eval", [path]).overrides
    assert (override.partition("=")[0], read(override)) == ("run", path)


def test_a_run_below_the_home_folder(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read(parse("eval", ["~/a=b"]).overrides[0]) == "/home/me/a=b"
    assert read(parse("train", ["init_from=~/a"]).overrides[0]) == "/home/me/a"


def test_in_a_sweep_a_comma_separates_and_a_quoted_one_does_not() -> None:
    for typed, values in (
        ("a,b", ["a", "b"]),
        ("'a,b'", ["a,b"]),
        ("'a,b',c", ["a,b", "c"]),
        ('"it\'s, so", c d', ["it's, so", "c d"]),
        ("it's,ok", ["it's", "ok"]),
        ("[a],${b}", ["[a]", "${b}"]),
        ("choice(a,b)", ["a", "b"]),
        ("a=1,b=2", ["a=1", "b=2"]),
        (r"'it\'s'", ["it's"]),
    ):
        for command, name in TEXTS:
            if settings_of(command)[name].metadata["unit"] == AS_TYPED:
                continue
            override = parser().parse_override(parse(command, ["-m", f"{name}={typed}"]).overrides[0])
            strings = [*override.sweep_string_iterator()] if override.is_sweep_override() else None
            found = [read(f"x={one}") for one in strings] if strings else [read(override.input_line)]
            assert found == values, (command, name, typed)
            again = [typed_again(f"{name}={one}", settings_of(command)) for one in strings or []]
            assert again in ([], [f"{name}={value}" for value in values])


def test_unreadable_text_is_refused_by_every_setting_and_word(memexp) -> None:
    for command in COMMANDS:
        for text in UNREADABLE:
            refused(command, text)
            refused(command, f"--{text}")
            refused(command, f"{text}=1")
    for command, name, _ in SETTINGS:
        for text in UNREADABLE:
            if f"{command} {name}" == "generate prompt" and text in ("a\nb", "a\tb"):
                assert read(parse(command, [f"{name}={text}"]).overrides[0]) == text
                continue
            assert refused(command, f"{name}={text}").isprintable()
    for text in UNREADABLE:
        for words in ([text], ["help", text], ["completion", text], ["--version", text]):
            result = memexp(*words)
            assert result.code == 2
            assert result.err.rstrip("\n").isprintable()
            assert says("expected")(result.err)


@pytest.mark.hard
def test_what_is_no_number_is_refused_by_every_numeric_setting() -> None:
    assert len(NUMBERS) > 80
    for command, name, item in NUMBERS:
        for text in [*NO_NUMBERS, *(["1.0", "1e3", "0.5"] if value_type(item) is int else [])]:
            given = f"[{text}]" if is_list(item) else text
            if is_list(item) and not text.strip():
                continue
            message = refused(command, f"{TYPED_AS.get(name, name)}={given}")
            assert name in message
            assert len(message) < 400
        if value_type(item) is float:
            refused(command, f"{name}={'[1e-999]' if is_list(item) else '1e-999'}")
            refused(command, f"{name}={'[%s]' % ('9' * 400) if is_list(item) else '9' * 400}")
        elif not is_list(item):
            refused(command, "-m", f"{name}=1,000")
            parse(command, ["-m", f"{name}=1,x"])  # a job of its own to refuse


def test_a_number_without_bounds_is_refused_by_every_numeric_setting() -> None:
    """Also where no command line gave it: in a file of a user's own group."""
    for _, name, item in NUMBERS:
        wrong = 10**400 if value_type(item) is int else float("inf")
        alone = make_dataclass("Alone", [(item.name, item.type, field(default=None, metadata=item.metadata))])
        with pytest.raises(UserError) as caught:
            check(alone([wrong] if is_list(item) else wrong))
        assert says(name.rpartition(".")[2], "expected")(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("word", "read_as"), [("mem=${segment}", "mem=${segment}"), ("optim.rate=${size.rate}", "optim.rate=${size.rate}")]
)
def test_another_setting_may_be_named(word, read_as) -> None:
    assert parse("train", [word]).overrides == [read_as]


@pytest.mark.hard
def test_no_other_interpolation_is_read() -> None:
    for command, name, item in SETTINGS:
        if is_text(item) or not is_offered(name):
            continue
        for text in (
            "${nope}",
            "${oc.env:HOME}",
            "${now:%Y}",
            "${memexp_root:x}",
            "${",
            "${}",
            f"${{{name}}}",
            "[${nope}]",
            "'${nope}'",
        ):
            assert name in refused(command, f"{name}={text}")
    for group in ("arch", "data", "size", "optim", "tracker", "task"):
        refused("train", f"{group}=${{oc.env:HOME}}")

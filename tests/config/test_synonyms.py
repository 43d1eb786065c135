"""The table of other programs' words, and the rule for words that are nearly known."""

import pytest

from memexp.config.commands import COMMANDS
from memexp.config.introspection import choices_of
from memexp.config.synonyms import (
    OPEN,
    TABLE,
    Meant,
    has,
    is_command,
    meant_command,
    meant_setting,
    meant_value,
    names_of,
    plain,
    suggestion,
    unknown_setting,
)
from memexp.errors import did_you_mean, nearest

from ..tiny import configure

ROWS = [Meant(here, why) for here, _, why in TABLE]


@pytest.mark.parametrize("row", ROWS, ids=[row.here or row.why for row in ROWS])
def test_every_target_exists(row: Meant) -> None:
    if is_command(row):
        name, *rest = row.here.split()[1:]
        assert name in (*COMMANDS, OPEN)
        assert rest in ([], [OPEN], ["list"])
        return
    commands = [command for command in COMMANDS if has(command, row.here)]
    assert commands
    for word in row.here.split():
        key, equals, value = word.partition("=")
        choices = names_of(commands[0]).get(key)
        of_one = key.startswith("arch.") and row.here.startswith(
            "arch="
        )  # architectures differ; the next test composes them
        if equals and choices and not of_one:
            assert value in choices
    assert row.here or row.why


@pytest.mark.hard
@pytest.mark.parametrize("here", sorted({row.here for row in ROWS if row.here.startswith("arch=")}))
def test_an_architecture_with_options_composes(here: str) -> None:
    assert configure(*here.split()).arch.name == here.split()[0].removeprefix("arch=")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("arch=deltanet", "arch=delta arch.decay=none"), ("arch=KDA", "arch=delta arch.decay=channel"),
        ("arch=gated_deltanet", "delta?"), ("arch=mamba", "there is no Mamba"), ("arch=mamba2", "arch=delta arch.write=add"),
        ("arch=linear_attention", "arch.decay=none"), ("arch=infini_attention", "infini?"), ("arch=ttt", "arch=titans"),
        ("arch=mac", "arch=titans arch.role=context"), ("arch=mag", "titans?"), ("arch=lmm", "arch=titans arch.role=layer"),
        ("arch=focused_transformer", "arch.negatives=1"), ("arch=longllama", "arch.negatives=1"), ("arch=rmt_r", "arch.past_memories=8"),
        ("data=babilong", "babi?"), ("data=niah", "needle?"), ("data=ruler", "needle?"), ("data=passkey_retrieval", "passkey?"),
        ("arch.segment_size=8", "did you mean segment?"), ("d_mem=8", "arch.key_size"), ("neural_memory=true", "arch=titans"),
    ],
)  # fmt: skip
def test_names_of_what_came_after_are_known(typed: str, meant: str) -> None:
    key, _, value = typed.partition("=")
    if key in ("arch", "data"):
        assert meant in suggestion(meant_value(key, value, choices_of(key)), f"{key}=")
    else:
        assert meant in unknown_setting(key, "train")


@pytest.mark.parametrize(("here", "words"), [(here, words) for here, words, _ in TABLE], ids=[row[1] for row in TABLE])
def test_every_word_means_its_row_somewhere(here: str, words: str) -> None:
    """So none stands behind another row, or is a setting itself wherever the row applies."""
    for word in words.replace("{}", "7").split():
        key, equals, value = word.partition("=")
        if here.startswith("memexp ") and OPEN not in here:
            found = [meant_command(word, [*COMMANDS])] if word not in COMMANDS else []
        elif equals:
            found = [meant_value(key, value, ())] if not _is_choice(key, value) else []
        else:
            found = [meant_setting(word, command) for command in COMMANDS if word not in names_of(command)]
        found += [meant_command(word, [*COMMANDS])] if OPEN in here else []
        assert here.replace("{}", "7") in [row.here for rows in found for row in rows], word


def _is_choice(key: str, value: str) -> bool:
    return value in names_of("train").get(key, ())


def test_no_word_stands_twice_for_one_command() -> None:
    for command in COMMANDS:
        seen: set[str] = set()
        for here, words, _ in TABLE:
            if has(command, here) and not here.startswith("memexp "):
                keys = {plain(word) for word in words.split()} - seen
                assert keys, f"no word of {here!r} is left for {command}"
                seen |= keys


def misspellings(name: str) -> list[str]:
    """A name with one letter left out, doubled, or swapped with the next, in every place."""
    places = [at for at, letter in enumerate(name) if letter.isalpha()]
    left_out = [name[:at] + name[at + 1 :] for at in places]
    doubled = [name[:at] + name[at] + name[at:] for at in places]
    swapped = [
        name[:at] + name[at + 1] + name[at] + name[at + 2 :]
        for at in places
        if at + 1 in places and name[at] != name[at + 1]
    ]
    return sorted({*left_out, *doubled, *swapped} - {""})


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.hard)])
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("prepare", "data")])  # as train
def test_misspelt_settings_are_recognised(command: str, every: int) -> None:
    known = names_of(command)
    wrong, right, total = [], 0, 0
    for name in known:
        for word in misspellings(name)[:: every if command == "train" else 1]:
            if word in known or plain(word) in {plain(other) for other in known}:
                continue
            total += 1
            rows = meant_setting(word, command)
            right += Meant(name) in rows
            if len(rows) == 1 and rows[0] != Meant(name):
                wrong.append((word, rows[0].here))
    assert right >= 0.97 * total, (right, total)
    assert len(wrong) <= 0.005 * total, wrong


@pytest.mark.parametrize("group", ["arch", "data", "size", "optim", "tracker"])
def test_misspelt_choices_are_recognised(group: str) -> None:
    choices = choices_of(group)
    words = {(word, choice) for choice in choices for word in misspellings(choice) if word not in choices}
    right = sum(Meant(f"{group}={choice}") in meant_value(group, word, choices) for word, choice in words)
    assert right >= 0.9 * len(words)


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("trian", ["train", "table"], ["train"]),
        ("optim.lr", ["optim.floor", "optim.rate"], []),
        ("gpu", ["auto", "cpu", "cuda"], ["cpu"]),  # a slip by letters; the table of synonyms comes first
        ("table4", ["table5", "table14"], []),
        ("table4", ["a/table4", "b/table5"], ["a/table4"]),
        ("table1", ["a/table1", "b/table1"], ["a/table1", "b/table1"]),
        ("KNN", ["knn", "xl"], ["knn"]),
        ("xl-enhanced", ["xl", "xl_enhanced"], ["xl_enhanced"]),
        ("k", ["a", "b"], []),
        ("", ["a"], []),
        ("multi", ["multirun", "plan"], ["multirun"]),
        ("mul", ["multirun"], []),
        ("checkpoint", ["a_much_longer_checkpoint", "checkpoints_and_many_more"], []),
        ("x", ["p.x", "q.x", "r.x", "s.x"], []),
        ("lanes", ["plans", "lane"], ["lane"]),
        ("optimrate", ["optim.rate"], ["optim.rate"]),
    ],
)
def test_near_is_really_near(word: str, known: list[str], found: list[str]) -> None:
    assert nearest(word, known) == found
    assert did_you_mean(word, known) == (f"; did you mean {' or '.join(found)}?" if found else "")


def test_distances_are_those_of_the_definition() -> None:
    """Against a search: which words one and two slips reach."""
    from memexp.errors import _distance

    letters, start = "abc", "abca"

    def slips(word: str) -> set[str]:
        out = {word[:at] + word[at + 1 :] for at in range(len(word))}
        out |= {word[:at] + letter + word[at:] for at in range(len(word) + 1) for letter in letters}
        out |= {word[:at] + letter + word[at + 1 :] for at in range(len(word)) for letter in letters}
        return out | {word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)}

    one = slips(start) - {start}
    assert {_distance(start, word) for word in one} == {1}
    for word in set().union(*map(slips, one)) - one - {start}:
        assert _distance(start, word) in (2, 3)  # 3: a letter is changed between two that were swapped
        assert _distance(start, word) == _distance(word, start)

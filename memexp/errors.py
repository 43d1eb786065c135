"""The exception for errors that a user can fix, which the command line prints in one line with exit code 2, and what to suggest."""

import re
from collections.abc import Callable, Iterable

USER_ERROR = 2
"""Exit code of a process that ended with a `UserError`."""

MOST_SUGGESTED = 3
"""More names that fit equally well are no suggestion."""

LONG = 6
"""Letters of a word in which two slips count as a misspelling; in a shorter word, only one."""

UNFINISHED = 4
"""Letters of a word that counts as the unfinished start of another, if it has half of that one's letters."""


class UserError(Exception):
    """An error that the user can fix. The message says what was seen, what was expected and the likely cause.

    Every other exception is a bug and keeps its traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' if a known word is almost `word`, else ''."""
    close = nearest(word, known)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that `word` can only be a slip of; more than one if they are equally near, none if nothing is really near.

    A wrong suggestion is worse than none, so this takes, in this order: words that differ only in capitals and separators; names
    whose last part this is (`rate` of `optim.rate`); words with one or two letters left out, added, changed or swapped, in every
    part of a name; words that begin with it. Numbers are never taken for misspelt: table4 is not nearly table5.
    """
    words = [*dict.fromkeys(known)]
    plain = _plain(word)
    if not plain:
        return []
    parts = _parts(word)
    rules: tuple[Callable[[], list[str]], ...] = (
        lambda: [each for each in words if _plain(each) == plain],
        lambda: [each for each in words if len(parts) == 1 and _plain(_parts(each)[-1]) == plain],
        lambda: _least({each: _slips(parts, _parts(each)) for each in words}),
        lambda: [each for each in words if len(plain) >= UNFINISHED and _begins(plain, each)],
    )
    found = next(filter(None, (rule() for rule in rules)), [])
    return found if len(found) <= MOST_SUGGESTED else []


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name.lower())


def _begins(plain: str, name: str) -> bool:
    return any(
        each.startswith(plain) and 2 * len(plain) >= len(each) for each in (_plain(name), _plain(_parts(name)[-1]))
    )


def _least(slips: dict[str, int | None]) -> list[str]:
    found = {name: count for name, count in slips.items() if count is not None}
    return [name for name, count in found.items() if count == min(found.values())]


def _slips(typed: list[str], name: list[str]) -> int | None:
    """The slips that make a name, or the last part of one, of what was typed; None if that is no misspelling."""
    if len(typed) == 1:
        name = name[-1:]
    if len(typed) != len(name):
        return None
    count = 0
    for word, part in zip(typed, name, strict=True):
        if word == part:
            continue
        shorter, longer = sorted((len(word), len(part)))
        most = min(2 if shorter >= LONG else 1, (longer - 1) // 2)
        slips = _distance(word, part) if longer - shorter <= most else most + 1
        if slips > most or re.sub(r"\d", "", word) == re.sub(r"\d", "", part):
            return None
        count += slips
    return count


def _distance(a: str, b: str) -> int:
    """Letters to leave out, add, change or swap with their neighbour, until `a` is `b` (optimal string alignment)."""
    rows: list[list[int]] = [[*range(len(b) + 1)]]
    for i, letter in enumerate(a, start=1):
        above, row = rows[-1], [i]
        for j, other in enumerate(b, start=1):
            best = min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and (a[i - 2], letter) == (other, b[j - 2]):
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]

"""The one exception a user is meant to see: the command line prints it as a single line and exits with 2."""

from collections.abc import Iterable

USER_ERROR = 2
"""Exit code of a process that ended with it."""


class UserError(Exception):
    """Something the user can mend. The message says what was seen, what was expected and the likely cause.

    Anything else that is raised keeps its traceback, for it is a bug.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' when a known word is close to `word`, else nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""

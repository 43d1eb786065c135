"""The exception for errors that a user can fix: the command line prints it in one line and exits with 2."""

from collections.abc import Iterable

USER_ERROR = 2
"""Exit code of a process that ended with a `UserError`."""


class UserError(Exception):
    """An error that the user can fix. The message says what was seen, what was expected and the likely cause.

    Every other exception is a bug and keeps its traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' if a known word is similar to `word`, else ''."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""

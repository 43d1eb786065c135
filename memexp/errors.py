"""The one exception a user is meant to see: the command line prints it as a single line and exits with 2."""


class UserError(Exception):
    """Something the user can mend. The message says what was seen, what was expected and the likely cause.

    Anything else that is raised keeps its traceback, for it is a bug.
    """

"""What tests ask of a message to the user: one line that names what was seen and what was expected, not its exact wording."""

from collections.abc import Callable


def says(*words: str) -> Callable[[BaseException | str], bool]:
    """A check that an error, or a line on stderr, is one line with all of these words in it.

    For `pytest.raises(UserError, check=says("mem is 8", "expected", "32"))` and `assert says("no run")(stderr)`. Take the names and
    values that were seen and expected, and the likely cause; leave out what may be put in other words.
    """

    def check(message: BaseException | str) -> bool:
        text = str(message).rstrip("\n")
        assert "\n" not in text, f"expected one line: {text!r}"
        for each in words:
            assert each in text, f"expected {each!r} in {text!r}"
        return True

    return check

"""`memexp diff`: compare two scores token by token."""

from pathlib import Path

from memexp.config.commands import DiffConfig
from memexp.files import find_root, refuse_as_output
from memexp.report.difference.breakdown import break_down
from memexp.report.difference.files import write_files
from memexp.report.difference.terminal import to_terminal
from memexp.report.difference.token_text import find_text, word
from memexp.report.difference.tokens import difference
from memexp.report.escape import console
from memexp.store.scores import find_foreign, find_score, load_scores
from memexp.terminal import warn


def run(config: DiffConfig) -> None:
    """Print the difference between two scores; with `out`, also write it as a page, CSV, JSON and a plot."""
    root = find_root(config.root)
    folder = None if config.out is None else Path(config.out).expanduser()
    if folder is not None:
        refuse_as_output(folder, folder=True)
    a, b = (load_scores(*find_score(root, name, config.eval, tag=config.tag)) for name in (config.a, config.b))
    compared = difference(a, b)
    pieces, warning, compared = find_text(compared, root)
    screen = console()
    if warning:
        warn(warning)
    wording = word(compared, pieces)
    breakdown = break_down(compared, wording.kind_N, find_foreign(compared.b))
    screen.print(to_terminal(compared, breakdown, pieces, top=config.top))
    if folder is None:
        screen.print(
            "out=DIR writes the page, every token as CSV, the numbers and a plot",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
        return
    paths = write_files(folder, compared, breakdown, pieces, wording)
    screen.print(
        f"written: {folder}: {', '.join(path.name for path in paths)}", markup=False, highlight=False, soft_wrap=True
    )

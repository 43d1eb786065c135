"""`memexp bench`: measure search, step and memory against their floors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from memexp.cli.settings import choices_of
from memexp.config import BENCHES, BenchConfig, TrainConfig
from memexp.files import write_json, write_text
from memexp.report.text import console
from memexp.runs import find_root


def run(config: BenchConfig) -> None:
    """Print the figures and write them as JSON and Markdown."""
    root = find_root(config.root)
    screen = console()
    with _shown(screen) as say:
        say("loading torch")
        from memexp.bench.formats import to_markdown, to_terminal
        from memexp.bench.suite import WORK, chosen, document, run_benches

        figures = run_benches(config, say, lambda: _archs(WORK.segment))
    names = chosen(config)
    # a few benches alone leave the file of all as it is
    path = root / "results" / "bench" / ("bench.json" if names == list(BENCHES) else f"{'-'.join(names)}.json")
    found = document(config, figures)
    write_json(path, found)
    write_text(path.with_suffix(".md"), to_markdown(figures, found, work=WORK.describe()))
    screen.print(to_terminal(figures))
    screen.print(f"written: {path} and .md", markup=False, highlight=False, soft_wrap=True)


def _archs(segment: int) -> dict[str, TrainConfig]:
    """Every architecture with its papers' options and the lengths that follow from the segment's."""
    from memexp.cli.compose import compose, typed

    words = ["size=200m", f"segment={segment}"]
    return {name: typed(compose("train", [f"arch={name}", *words])) for name in choices_of("arch")}


@contextmanager
def _shown(screen: Console) -> Iterator[Callable[[str], None]]:
    """What is being measured: in place on a terminal, a line each elsewhere."""
    if not screen.is_terminal:
        yield lambda what: screen.print(what, markup=False, highlight=False, soft_wrap=True)
        return
    with screen.status("") as status:
        yield status.update

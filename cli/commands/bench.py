"""`memexp bench`: measure search, step and memory against their lower bounds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from memexp.config.commands import BenchConfig
from memexp.config.introspection import choices_of
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.files import find_root, write_json, write_text
from memexp.report.escape import Fitting, console
from memexp.wording import plural

SEGMENT, VOCABULARY = 512, 32_000
"""Sizes of the papers' model, for the plan."""


def run(config: BenchConfig) -> None:
    """Print the figures and write them as JSON and Markdown; or print a plan."""
    root = find_root(config.root)
    screen = console()
    if config.plan:
        from memexp.cost.fitting import table
        from memexp.cost.memory import page

        memory = [f"mem={config.largest}", f"lanes={config.lanes}", "precision=bf16"]
        settings = {
            f"arch=knn size=200m segment={SEGMENT} {' '.join(memory)} arch.stored={stored}": _settings(
                "knn", SEGMENT, *memory, f"arch.stored={stored}"
            )
            for stored in ("fp32", "bf16")
        }
        plan = page(settings, card=config.card, vocabulary=VOCABULARY)
        screen.print(plan, markup=False, highlight=False, soft_wrap=True)
        screen.print("\nLargest mem x lanes that fit into a device:", markup=False, highlight=False, soft_wrap=True)
        screen.print(table(largest_runs()), markup=False, highlight=False, soft_wrap=True)
        return
    with _shown(screen) as say:
        say("loading torch")
        from memexp.bench.formats import to_markdown, to_terminal
        from memexp.bench.suite import WORK, chosen, document, run_benches, work_of

        figures = run_benches(config, say, lambda: _archs(WORK.segment), _composed)
    names = chosen(config)
    # a few selected benches get their own file and leave bench.json unchanged
    parts = [*names, *config.only] if config.checkpoint is None else [*names, Path(config.checkpoint).name]
    path = root / "results" / "bench" / ("bench.json" if not config.what else f"{'-'.join(parts)}.json")
    results = document(config, figures)
    write_json(path, results)
    written = [path, path.with_suffix(".md")]
    if "curve" in names:
        from memexp.bench.curve import plot

        written.append(path.with_name("curve.svg"))
        write_text(written[-1], plot(figures).decode())
    write_text(path.with_suffix(".md"), to_markdown(figures, results, work=work_of(config).describe()))
    screen.print(Fitting(to_terminal(figures)))
    screen.print(f"written: {', '.join(map(str, written))}", markup=False, highlight=False, soft_wrap=True)
    if names in (["gpu"], ["devices"]) and (missed := [figure.what for figure in figures if figure.met is False]):
        raise UserError(
            f"{len(missed)} of {plural(len(figures), 'figure')} are not as wanted: {'; '.join(missed)}; expected all. The notes in "
            f"{written[1]} say more"
        )


def largest_runs() -> dict[str, TrainConfig]:
    """Runs with a memory of pairs, by their settings, for the table of what fits into a device."""
    words = ("size=200m", "size=200m arch.stored=bf16", "size=1b", "size=8b")
    recipe = ["arch=knn", "precision=bf16", "optim=adafactor", f"data.tokenizer.vocabulary={VOCABULARY}"]
    return {each: _composed(*recipe, *each.split()) for each in words}


def _archs(segment: int) -> dict[str, TrainConfig]:
    """Settings of every architecture, with the options of its paper and the lengths that follow from the segment."""
    return {name: _settings(name, segment) for name in choices_of("arch")}


def _settings(arch: str, segment: int, *more: str) -> TrainConfig:
    return _composed(f"arch={arch}", "size=200m", f"segment={segment}", *more)


def _composed(*words: str) -> TrainConfig:
    from memexp.config.compose import compose, typed

    settings: TrainConfig = typed(compose("train", list(words)))
    return settings


@contextmanager
def _shown(screen: Console) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being measured: in place on a terminal, else as one line each."""
    if not screen.is_terminal:
        yield lambda what: screen.print(what, markup=False, highlight=False, soft_wrap=True)
        return
    with screen.status("") as status:
        yield status.update

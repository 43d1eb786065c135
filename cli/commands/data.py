"""`memexp data`: list the corpora, or inspect one."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from memexp.config.commands import DataConfig
from memexp.config.groups import Data
from memexp.errors import UserError
from memexp.files import find_root, refuse_as_output
from memexp.report.escape import console
from memexp.terminal import typed_words


def run(config: DataConfig) -> None:
    """Print the list of corpora, or what is in one corpus; with `out`, also write that."""
    root = find_root(config.root)
    if config.what == "list":
        from memexp.config.introspection import choices_of
        from memexp.report.corpus.table import corpora_table, list_corpora

        screen = console()
        screen.print(corpora_table(list_corpora(root, choices_of("data"))))
        if config.page:
            from memexp.data.catalogue import update_page

            page = update_page(root / "data", _configured(root))
            screen.print(f"{page} is up to date", markup=False, highlight=False, soft_wrap=True)
        return
    folder = None if config.out is None else Path(config.out).expanduser()
    if folder is not None:
        refuse_as_output(folder, folder=True)
    from memexp.data.corpus import open_corpus
    from memexp.report.corpus.files import to_terminal, write_files
    from memexp.report.corpus.statistics import inspect_corpus

    corpus = open_corpus(_prepared(config.data, root))
    inspection = inspect_corpus(corpus, split=config.split, ngram=config.ngram, sample=config.sample)
    screen = console()
    screen.print(to_terminal(inspection))
    if folder is None:
        screen.print("out=DIR writes the numbers and a plot", style="dim", markup=False, soft_wrap=True)
        return
    paths = write_files(folder, inspection)
    written = ", ".join(path.name for path in paths)
    screen.print(f"written: {folder}: {written}", markup=False, highlight=False, soft_wrap=True)


def _configured(root: Path) -> dict[str, dict[str, Any]]:
    """The settings that determine each prepared corpus, by its name, with the values of its file in conf/data."""
    from memexp.config.compose import compose, typed
    from memexp.config.introspection import choices_of
    from memexp.data.library import settings_of

    settings = {}
    for name in choices_of("data"):
        if any((root / "data").glob(f"{name}-*/manifest.json")):
            with suppress(UserError):  # a corpus that needs settings, such as a user's own files
                settings[name] = settings_of(typed(compose("prepare", [f"data={name}"])).data, root)
    return settings


def _prepared(data: Data, root: Path) -> Path:
    """The folder of the corpus of these settings.

    Raises:
        UserError: it is not prepared yet.
    """
    from memexp.data.library import folder_of

    folder = folder_of(data, root)
    if folder.exists():
        return folder
    others = sorted(path.parent.name for path in folder.parent.glob(f"{data.name}-*/manifest.json"))
    typed = [word for word in typed_words() if word.startswith(("data.", "root="))]
    raise UserError(
        f"{data.name} is not prepared as {folder.name} (prepared below {folder.parent}: {', '.join(others) or 'none'}); expected a "
        f"prepared corpus: `{shlex.join(['memexp', 'prepare', f'data={data.name}', *typed])}` makes it"
    )

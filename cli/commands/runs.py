"""`memexp runs`: list runs."""

import time

from memexp.config.commands import RunsConfig
from memexp.files import find_root
from memexp.report.escape import console
from memexp.report.runs import list_runs, runs_table
from memexp.store.select import select_runs


def run(config: RunsConfig) -> None:
    """Print the runs with state, progress and final numbers, the newest last."""
    listed = list_runs(select_runs(find_root(config.root), tag=config.tag))
    console().print(runs_table(listed, now=time.time()))

"""`memexp runs`: list runs."""

import time

from memexp.config import RunsConfig
from memexp.report.listing import list_runs, runs_table
from memexp.report.selection import select_runs
from memexp.report.text import console
from memexp.runs import find_root


def run(config: RunsConfig) -> None:
    """Print runs with state, progress and final numbers, the newest last."""
    listed = list_runs(select_runs(find_root(config.root), tag=config.tag))
    console().print(runs_table(listed, now=time.time()))

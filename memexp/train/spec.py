"""What a run is made of: looked up once, at the top of a command, and handed on from there."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus
from memexp.runs.folder import Run, find_run
from memexp.runs.identity import identify, run_folder


@dataclass(frozen=True)
class RunSpec:
    """A run and everything that it depends on."""

    run: Run
    config: TrainConfig
    corpus: Corpus
    """As the run reads it."""
    identity: dict[str, Any]
    """What determines the result, with its hash under "hash"."""
    root: Path
    """The folder that holds data/ and results/."""
    start: Run | None = None
    """The run whose last weights it begins with; looked up only where it is to be trained."""

    @property
    def hash(self) -> str:
        """Of the identity."""
        return str(self.identity["hash"])


def specify(config: TrainConfig, corpus: Corpus, root: Path) -> RunSpec:
    """The run that these settings train on this corpus.

    Raises:
        UserError: `init_from` names no run, or one whose identity is damaged.
    """
    start, known = None, config
    if config.init_from is not None:
        start = find_run(root, config.init_from)
        known = replace(config, init_from=str(start.path))  # by its folder, so that it is not looked for again
    identity = identify(known, corpus, root)
    return RunSpec(run_folder(config, identity, root), config, corpus, identity, root, start)

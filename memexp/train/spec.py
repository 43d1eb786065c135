"""The settings, corpus and folders of a run: looked up once by a command and passed on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus
from memexp.store.folder import Run, find_run
from memexp.store.identity import identify, run_folder


@dataclass(frozen=True)
class RunSpec:
    """A run and everything that it depends on."""

    run: Run
    config: TrainConfig
    corpus: Corpus
    """With classes, if the task needs them."""
    identity: dict[str, Any]
    """Everything that determines the result, with its hash under "hash"."""
    root: Path
    """The folder that holds data/ and results/."""
    start: Run | None = None
    """The run whose final weights are the initial weights; set only for training."""

    @property
    def hash(self) -> str:
        """The hash of the identity."""
        return str(self.identity["hash"])


def specify(config: TrainConfig, corpus: Corpus, root: Path) -> RunSpec:
    """The spec of the run that these settings train on this corpus.

    Raises:
        UserError: `init_from` names no run, or one whose identity is damaged.
    """
    start, known = None, config
    if config.init_from is not None:
        start = find_run(root, config.init_from)
        known = replace(config, init_from=str(start.path))  # by its folder, so that it is not searched for again
    identity = identify(known, corpus, root)
    return RunSpec(run_folder(config, identity, root), config, corpus, identity, root, start)

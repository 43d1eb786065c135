"""memexp from Python: a trained run as an object, the loss of each token of a text, the runs, and tables as data frames.

    import memexp

    trained = memexp.load("knn-code-mem4096-s0")
    scored = memexp.score(trained, "def f(x):\\n    return x\\n")
    for token, nats in zip(scored.tokens, scored.nats):
        print(f"{nats:6.2f}  {token!r}")

torch is imported by `load` and `score`, pandas by `table`; `import memexp` imports neither.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from memexp.config.train import TrainConfig
    from memexp.data.corpus import Corpus
    from memexp.data.tokenizers import Tokenizer
    from memexp.model.segment import SegmentModel
    from memexp.store.folder import Run

Root = str | Path | None
"""The folder that holds `data/` and `results/`. None: the checkout, or the working directory if memexp was installed without one."""


@dataclass(frozen=True)
class Trained:
    """A finished run with its last weights.

    Attributes:
        run: its folder: `run.path`, `run.name`, `run.summary`, `run.metrics`, `run.scores`.
        settings: the settings that it was trained with; only `mem` may differ, if `load` was asked for another size.
        corpus: the corpus that it was trained on; `corpus.split("test")` iterates over the documents of a split.
        model: a `torch.nn.Module` in evaluation mode, on its device.
    """

    run: Run
    settings: TrainConfig
    corpus: Corpus
    model: SegmentModel

    @property
    def tokenizer(self) -> Tokenizer:
        """`tokenizer.encode(text)` gives token ids, `tokenizer.pieces(ids)` the bytes of each."""
        return self.corpus.tokenizer


@dataclass(frozen=True)
class TextScore:
    """The loss of each token of a text except the first, which nothing comes before.

    Attributes:
        ids: int64 [T], the scored tokens.
        nats: float32 [T], the negative log-probability of each, in nats.
        pieces: the bytes of each token; together with those of the first token they are the text.
    """

    ids: np.ndarray
    nats: np.ndarray
    pieces: list[bytes]

    @property
    def tokens(self) -> list[str]:
        """The text of each token; bytes that are no whole character are shown as \\ufffd."""
        return [piece.decode(errors="replace") for piece in self.pieces]

    @property
    def perplexity(self) -> float:
        """exp of the mean nats per token."""
        return math.exp(float(self.nats.mean(dtype="float64")))


def load(run: str | Path | Run, *, mem: int | None = None, device: str = "auto", root: Root = None) -> Trained:
    """Load a finished run: its model with the last weights, its tokenizer, settings and corpus.

    Args:
        run: a run folder, or the start of a run's name that only one run has.
        mem: size of the memory, in the unit of the architecture; None: as in training. Only memories without parameters of
            their own, such as that of `arch=knn`, can have another size.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: there is no such run or no such device, the run is not done, it cannot have this `mem`, or its corpus is not the
            one it was trained on.
    """
    from memexp.eval.evaluate import load_model, reopen, with_mem
    from memexp.store.folder import Run, find_run
    from memexp.store.identity import trained_settings
    from memexp.terminal import tell
    from memexp.train.remarks import of_the_precision

    place = _root(root)
    found = run if isinstance(run, Run) else find_run(place, str(run))
    spec = reopen(found, with_mem(trained_settings(found), mem, run=found), place)
    model = load_model(spec, memory="on", device=device)
    tell(of_the_precision(spec.config, next(model.parameters()).device))
    return Trained(found, spec.config, spec.corpus, model.eval())


def score(trained: Trained, text: str, *, memory: str = "on") -> TextScore:
    """The loss of each token of a text, read as one document: segment by segment, with the memory that the model builds up.

    Args:
        text: at least two tokens long.
        memory: "on", or "off", which resets the memory to its state at a document's start before every segment.

    Raises:
        UserError: the text has fewer than two tokens, or `memory` is neither of the two.
    """
    import numpy as np

    from memexp.data.corpus import TokenDocument
    from memexp.errors import UserError
    from memexp.eval.score import score_documents
    from memexp.train.precision import arithmetic

    if memory not in ("on", "off"):
        raise UserError(
            f"memory is {memory!r}; expected on or off, because a text alone has no other document's memory"
        )
    ids = trained.tokenizer.encode(text)
    if len(ids) < 2:
        raise UserError(
            f"the text has {len(ids)} tokens; expected two at least, because the first token of a document is never predicted"
        )
    document = TokenDocument("text", ids, len(text.encode()))
    scores = score_documents(
        trained.model,
        [document],
        lanes=1,
        max_document=0,
        memory=memory,
        arithmetic=arithmetic(trained.settings),
    )
    scored = ids[1:].astype(np.int64)
    return TextScore(scored, scores.nats, trained.tokenizer.pieces(scored.tolist()))


def runs(*, tag: str | None = None, root: Root = None) -> list[Run]:
    """All runs in `root`, sorted by name; with `tag`, only those with this tag.

    A run has `name`, `path`, `state` (done, running or stopped), `config` (all its settings), `summary` (a dict; None until it is
    done), `metrics` (a list of dicts, one for each logged step and one for each validation) and `scores`.
    """
    from memexp.store.folder import all_runs

    return all_runs(_root(root), tag=tag)


def table(
    *names: str,
    tag: str | None = None,
    data: Sequence[str] = (),
    scale: str = "small",
    metric: str = "perplexity",
    checkpoint: str | None = None,
    root: Root = None,
) -> pd.DataFrame:
    """A table as a data frame, with one row for each score: the file that `memexp table ... out=DIR` writes as CSV.

    Args:
        names: one paper's table, such as "memorizing/table4"; or runs, each by the start of its name; empty: all runs.
        tag: only runs with this tag.
        data: of a paper's table, the data sets to show; empty: all.
        scale: of a paper's table, "small" or "paper".
        checkpoint: of a table of a published checkpoint, another folder or name in place of its own.
        metric: of runs: perplexity, bits_per_token, bits_per_byte, accuracy, ...

    Raises:
        UserError: no run or no table has this name, or the scores cannot be compared.
    """
    import pandas as pd

    from memexp.config.groups import Scored
    from memexp.experiment.definition import means_experiment
    from memexp.experiment.fill import fill
    from memexp.experiment.library import Library
    from memexp.experiment.paper_table import open_table
    from memexp.experiment.text import records
    from memexp.report.table.comparison import compare
    from memexp.report.table.formats import records_to_csv, to_csv
    from memexp.store.select import select_runs

    place = _root(root)
    if len(names) == 1 and means_experiment(names[0]):
        content = records_to_csv(
            records(fill(open_table(names[0], scale=scale, data=data, checkpoint=checkpoint), Library(place)))
        )
    else:
        content = to_csv(compare(place, select_runs(place, names, tag=tag), metric=metric, scored=Scored()))
    return pd.read_csv(io.StringIO(content))


def _root(root: Root) -> Path:
    from memexp.files import find_root

    return find_root(None if root is None else str(root))

"""Light copies of finished runs, small enough to commit: settings, summaries, metrics and the loss of every document."""

from pathlib import Path
from typing import Any

import numpy as np

from memexp.errors import UserError
from memexp.files import as_json, write_together
from memexp.runs.folder import Run, Score

OF_A_RUN = ("config.yaml", "identity.json", "metrics.jsonl", "summary.json")
"""In this order: the summary is what says that a run is whole."""


def keep(run: Run, root: Path, experiment: str) -> Run:
    """Copy what is light of a finished run and of its scores to `results/<paper>/<table>/runs`, where it is not there yet or is of
    another training or scoring.

    Of a run that tables share there is one copy, beside the first of them; of a copy none.
    """
    results = root / "results"
    if run.path.parent != results / "runs":
        return run
    here = sorted(results.glob(f"*/*/runs/{run.name}"))
    kept = Run(here[0] if here else results / experiment / "runs" / run.name)
    kept.path.mkdir(parents=True, exist_ok=True)
    for score in run.scores:
        copy, summary = Score(kept.path / "eval" / score.path.name), (score.path / "summary.json").read_bytes()
        if not _holds(copy.path / "summary.json", summary):
            write_together(copy.path, {"documents.json": as_json(documents_of(score)), "summary.json": summary})
    files = {name: (run.path / name).read_bytes() for name in OF_A_RUN}
    if not all(_holds(kept.path / name, content) for name, content in files.items()):
        write_together(kept.path, files)
    return kept


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def documents_of(score: Score) -> list[dict[str, Any]]:
    """Id, scored tokens and summed nats of each document of a score; nothing where an older light copy does not list them.

    Raises:
        UserError: its files are damaged or do not belong together.
    """
    if not (score.path / "documents.json").exists():
        return []
    rows = score.documents
    if all("nats" in row for row in rows):
        return rows
    try:
        nats = np.load(score.path / "token_nats.npy")
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {score.path / 'token_nats.npy'}: {error}; expected the nats of every token, for documents.json does "
            "not sum them. Score again with force=true"
        ) from error
    ends = np.cumsum([row["tokens"] for row in rows])
    if not rows or ends[-1] != len(nats):
        raise UserError(
            f"{score.path / 'token_nats.npy'} holds {len(nats):,} numbers; expected as many as documents.json says. It was cut "
            "short or edited; score again with force=true"
        )
    sums = [float(part.sum(dtype=np.float64)) for part in np.split(nats, ends[:-1])]
    return [row | {"nats": total} for row, total in zip(rows, sums, strict=True)]

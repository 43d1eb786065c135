"""A table small enough to see through, and finished runs that train nothing."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from memexp.experiment.cells import cells
from memexp.experiment.definition import Column, Experiment, Row, Scale
from memexp.experiment.settings import Wanted, wanted
from memexp.files import fingerprint, write_json, write_sealed
from memexp.store.archive import LightCopy, keep, light_copies
from memexp.store.folder import Run, Score, all_runs
from memexp.store.identity import of_the_result


@pytest.fixture
def experiment() -> Experiment:
    """Four rows: a plain model, one with memory, one that starts from it, and one that is scored with more memory."""
    knn = {"arch": "knn", "segment": 128, "arch.cache": 128, "mem": 512}
    return Experiment(
        name="tiny/table1",
        title="Tiny, Table 1",
        metric="perplexity",
        seeds=[0, 1],
        columns={
            "Letters": Column(paper={"data": "stdlib", "steps": 7}, small={"data": "tiny"}),
            "Poems": Column(paper={"data": "code"}, small={"data": "stdlib"}),
        },
        rows={
            "plain": Row(set={"arch": "vanilla", "segment": 128}),
            "memory": Row(set=dict(knn)),
            "more": Row(set=knn | {"mem": 1024}, init_from="memory", small={"steps": 3}),
            "tested": Row(scores="memory", mem=1024, columns=["Letters"]),
        },
        scales={
            "paper": Scale(set={"size": "tiny"}, tokens_a_step=1024, steps=100),
            "small": Scale(
                set={"size": "tiny", "eval.documents": 2, "eval.max_document": 64},
                divide=8,
                divided=["segment", "arch.cache", "mem"],
                tokens_a_step=64,
                steps=5,
                differs=["it is tiny"],
            ),
        },
    )


@pytest.fixture
def rows(experiment: Experiment) -> dict[str, Wanted]:
    """The cells of the first column and seed, by row."""
    found = wanted(cells(experiment, "small", data=["tiny"], seeds=[0]))
    return {one.cell.row: one for one in found}


CORPUS = {"tokens_checksum": "1" * 64, "documents_checksum": "2" * 64, "tokenizer_hash": "3" * 64}

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes the finished run of a cell, and its score with one loss a document, as train and eval would."""

    def call(
        wanted: Wanted,
        nats: tuple[float, ...] | None = (3.0, 3.0),
        *,
        start: Run | None = None,
        done: bool = True,
        weights: bool = True,
        summary: dict[str, Any] | None = None,
        score: dict[str, Any] | None = None,
        name: str = "12345678",
        corpus: dict[str, str] = CORPUS,
        **settings: Any,
    ) -> Run:
        config = replace(wanted.settings, init_from=start and start.name, **settings)
        arch, mem = config.arch.name, config.mem
        run = Run(tmp_path / "results" / "runs" / f"{arch}-{config.data.name}-mem{mem}-s{config.seed}-{name}")
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
        content = of_the_result(config) | {"data": {"name": config.data.name, **corpus}}
        if start is not None:
            content["init_from"] = yaml.safe_load((start.path / "identity.json").read_text())["hash"]
        write_json(run.path / "identity.json", content | {"hash": fingerprint(content)})
        (run.path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n')
        if not done:
            return run
        (run.path / "weights.pt").write_bytes(b"weights") if weights else None
        tokens = config.steps * config.lanes * config.segment * config.accumulate
        write_sealed(
            run.path / "summary.json",
            {
                "run": run.name, "state": "done", "steps": config.steps, "tokens": tokens, "parameters": 1000,
                "tokens_per_second": 2000.0 if arch == "vanilla" else 1000.0, "memory_fill": None,
                "command": f"memexp train arch={arch} mem={mem} seed={config.seed}",
            }
            | (summary or {}),
        )  # fmt: skip
        if nats is not None:
            path = run.path / "eval" / wanted.score.folder
            mean = float(np.mean(nats))
            write_json(
                path / "documents.json",
                [{"id": f"d{at}", "tokens": 10, "nats": 10 * each} for at, each in enumerate(nats)],
            )
            write_sealed(
                path / "summary.json",
                {
                    "data": config.data.name, "split": "test", "mem": mem, "memory": wanted.cell.memory, "context": 16,
                    "cache": 16, "memory_slots": 0 if arch == "vanilla" else wanted.score.mem, "nats_per_token": mean,
                    "perplexity": float(np.exp(mean)), "bits_per_token": mean / np.log(2), "bits_per_byte": 1.0,
                    "bits_per_character": 1.0, "tokens": 10 * len(nats), "bytes": 25 * len(nats),
                    "tokenizer_hash": "3" * 64, "tokens_hash": "4" * 64,
                    "memory_fill": None if arch == "vanilla" else 1.0, "command": f"memexp train arch={arch} mem={mem}",
                }
                | (score or {}),
            )  # fmt: skip
        return run

    return call


def only_copies(root: Path) -> list[LightCopy]:
    """The light copies of all runs, beside the table; the runs themselves are gone."""
    keep(all_runs(root), root, "tiny/table1")
    shutil.rmtree(root / "results" / "runs")
    return light_copies(root / "results" / "tiny" / "table1" / "runs.jsonl")


@pytest.fixture
def score_of() -> Callable[[Run], Score]:
    """The only score of a run."""

    def call(run: Run) -> Score:
        [score] = run.scores
        return score

    return call

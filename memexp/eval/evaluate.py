"""Scoring a run: choosing the model, the documents and the memory, and writing the result to a folder."""

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memexp.config.checks import check_scoring, check_value
from memexp.config.field import default_of
from memexp.config.groups import Scoring
from memexp.config.train import TrainConfig
from memexp.data.built_in import is_built_in
from memexp.data.classes import for_task
from memexp.data.corpus import Corpus, TokenDocument, open_corpus, recorded, with_content
from memexp.data.library import prepare
from memexp.device import describe, pick_device
from memexp.errors import UserError
from memexp.eval.accuracy import accuracies, classification
from memexp.eval.room import room
from memexp.eval.score import Scores, has_answers, others, put_together, score_documents, shares
from memexp.files import SUMMARY, as_json, fingerprint, make_writable, remove_if_empty, write_together
from memexp.machine import memory_bytes
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.transformer.kept import FULL
from memexp.ranks import watch
from memexp.ranks.exchange import agreed, first, is_first, rank, ranks, told
from memexp.store.folder import TOKEN_NATS, WEIGHTS, Run, Score, ScoreName
from memexp.store.identity import read_identity
from memexp.store.scores import refuse_fixed_memory
from memexp.terminal import console, warn
from memexp.train.precision import arithmetic, has_tf32
from memexp.train.spec import RunSpec
from memexp.train.weights import how_to_train_again, restore_trained
from memexp.wording import perplexity_of, plural


class Request(NamedTuple):
    """How to score a run."""

    scoring: Scoring
    mem: int | None = None
    """Size of the memory; None for the run's own."""
    memory: str = "on"
    """on, off or foreign."""
    retrieved: int = 0
    """How many of the memory positions that each token read to keep."""
    device: str = "auto"


def evaluate(
    run: Run, settings: TrainConfig, request: Request, root: Path, *, command: str, force: bool = False
) -> Score:
    """Score a finished run on its training corpus, unless the score already exists.

    Args:
        settings: the settings that the run was trained with.
        force: score again even if the score exists.

    Raises:
        UserError: the run has no weights, its memory cannot have this size, or the corpus is not the one it was trained on.
    """
    config = with_mem(settings, request.mem, run=run)
    check_scoring(config.data, request.scoring)
    if not force and first(lambda: kept_score(run, config, request) is not None):
        return _score_of(run, config, request)
    with _folder_of(_score_of(run, config, request)):
        return score_run(reopen(run, config, root), request, command=command)


@contextmanager
def _folder_of(score: Score) -> Iterator[None]:
    """Make the folder of a score, before hours of work; if nothing is written to it, remove it again."""
    first(lambda: make_writable(score.path))
    try:
        yield
    finally:
        if is_first():
            remove_if_empty(score.path)
            remove_if_empty(score.path.parent)


def kept_score(run: Run, config: TrainConfig, request: Request) -> Score | None:
    """The existing score that answers the request; None if it has to be made."""
    score = _score_of(run, config, request)
    exists = (score.path / SUMMARY).exists()
    return score if exists and score.summary.get("retrieved", 0) >= request.retrieved else None


def _score_of(run: Run, config: TrainConfig, request: Request) -> Score:
    scoring = request.scoring
    name = ScoreName(scoring.split, scoring.documents, scoring.max_document, config.mem, request.memory)
    return Score(run.within(run.path / "eval" / name.folder))


def score_run(spec: RunSpec, request: Request, *, command: str) -> Score:
    """Score a run's documents with its last weights, and write the nats of every token.

    Several processes share the documents; the first one writes.

    Args:
        spec: the run, with the size of the memory to score in `spec.config`.

    Raises:
        UserError: the run has no weights, or the split has nothing to score.
    """
    run, config = spec.run, spec.config
    score = _score_of(run, config, request)
    with _folder_of(score):
        _score_and_write(spec, score, request, command=command)
    return score


def _score_and_write(spec: RunSpec, score: Score, request: Request, *, command: str) -> None:
    run, config, corpus, scoring = spec.run, spec.config, spec.corpus, request.scoring
    model = load_model(spec, memory=request.memory, device=request.device, lanes=scoring.lanes)
    model_device = next(model.parameters()).device
    device = describe(model_device, asked=request.device)
    documents = pick_documents(corpus, scoring)
    watch.begin()
    began, cpu_began = time.perf_counter(), time.process_time()
    scores = score_with_progress(
        model,
        documents,
        scoring,
        config,
        memory=request.memory,
        answers_from=corpus.answers_from,
        retrieved=request.retrieved,
        title=f"{run.name} {score.path.name}",
    )
    seconds, cpu_seconds = time.perf_counter() - began, sum(told(time.process_time() - cpu_began))
    _refuse_nonfinite(spec, documents, scores)
    tokens = scored_tokens(documents, scoring)
    summary = {
        "run": run.name,
        "data": corpus.name,
        "split": scoring.split,
        "documents": len(documents),
        "max_document": scoring.max_document,
        "mem": config.mem,
        "memory": request.memory,
        "context": config.segment,
        "cache": model.cache_tokens,
        "memory_slots": model.memory_slots,
        **means(scores.nats, _texts(corpus, tokens, scores.lengths)),
        **({} if scores.said is None else accuracies(documents, scores.lengths, scores.said == tokens)),
        **({} if scores.said is None or not corpus.classes else _classification(corpus, tokens, scores.said)),
        "gauges": scores.gauges,
        "tokenizer_hash": corpus.tokenizer_hash,
        "tokens_hash": fingerprint([[document.id for document in documents], scores.lengths, tokens.tolist()]),
        "corpus": corpus.seen_from(spec.root),
        "memory_fill": scores.memory_fill,
        "retrieved": request.retrieved,
        "hardware": device.record,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds if model_device.type == "cpu" else None,
        "tokens_read": sum(_sizes(documents, scoring)),
        "tokens_per_second": len(tokens) / seconds,
        "command": command,
        "config_hash": spec.hash,
    }
    first(lambda: _write(run, score, scores, summary, documents, tokens))


def _write(
    run: Run, score: Score, scores: Scores, summary: dict[str, Any], documents: list[TokenDocument], tokens: np.ndarray
) -> None:
    rows = _document_rows(documents, tokens, scores)
    if run.summary is None:
        raise UserError(
            f"{run.path} was deleted or moved while it was scored; expected that it stays until then. Train it again, or score it where "
            "it is now"
        )
    write_together(
        score.path,
        {
            TOKEN_NATS: partial(np.save, arr=scores.nats),
            "tokens.npy": partial(np.save, arr=tokens),
            "retrieved.npy": None if scores.retrieved is None else partial(np.save, arr=scores.retrieved),
            "documents.json": as_json(rows),
        },
        summary=summary,
    )


def _refuse_nonfinite(spec: RunSpec, documents: list[TokenDocument], scores: Scores) -> None:
    if not np.isfinite(scores.nats).all():
        at = int(np.flatnonzero(~np.isfinite(scores.nats))[0])
        document = int(np.searchsorted(np.cumsum(scores.lengths), at, side="right"))
        unstable = spec.config.arch.unstable()
        cause = f"{unstable}; or " if unstable else ""
        raise agreed(
            UserError(
                f"{spec.run.name} has diverged: it predicts a token of {documents[document].id} with {scores.nats[at]} nats; expected a finite "
                f"loss. Likely cause: {cause}optim.rate is too high, or precision=bf16 too coarse for it; train with a lower optim.rate"
            )
        )


def _document_rows(documents: list[TokenDocument], tokens: np.ndarray, scores: Scores) -> list[dict[str, Any]]:
    """One row per document: number of scored tokens, their nats summed in float64, and the number of right answer tokens."""
    ends = np.cumsum(scores.lengths)[:-1]
    rows: list[dict[str, Any]] = [
        {"id": document.id, "tokens": length, "nats": float(part.sum(dtype=np.float64))}
        for document, length, part in zip(documents, scores.lengths, np.split(scores.nats, ends), strict=True)
    ]
    if scores.said is None:
        return rows
    parts = np.split(scores.said == tokens, ends)
    return [row | {"correct": int(part.sum())} for row, part in zip(rows, parts, strict=True)]


def validation_nats(model: SegmentModel, corpus: Corpus, config: TrainConfig) -> float:
    """Mean nats per token of the validation split, measured during training."""
    scoring = replace(config.eval, split="valid")
    scores = _score(model, pick_documents(corpus, scoring), scoring, config, answers_from=corpus.answers_from)
    return float(scores.nats.mean(dtype=np.float64))


def _classification(corpus: Corpus, tokens: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    first = corpus.answers_from
    return classification(corpus.classes, tokens.astype(np.int64) - first, said - first)


def pick_documents(corpus: Corpus, scoring: Scoring) -> list[TokenDocument]:
    """The first documents of the split with something to score; a document with answers counts only if all its answers are read.

    Raises:
        UserError: there is no such document.
    """
    scorable = (document for document in corpus.split(scoring.split) if _scorable(document, scoring.max_document))
    documents = list(islice(scorable, scoring.documents or None))
    if not documents:
        raise UserError(
            f"the {scoring.split} split of {corpus.path} holds nothing to score with eval.max_document="
            f"{scoring.max_document}; expected a document of at least two tokens or, if documents have answers, one whose "
            "answers are all within that length"
        )
    return documents


def _scorable(document: TokenDocument, limit: int) -> bool:
    scored = len(document.scored(limit))
    return scored > 0 and (document.answers is None or scored == len(document.scored(0)))


def scored_tokens(documents: list[TokenDocument], scoring: Scoring) -> np.ndarray:
    """The scored tokens, documents one after another, uint32."""
    parts = [document.tokens[document.scored(scoring.max_document)] for document in documents]
    return np.concatenate(parts).astype(np.uint32)


def _texts(corpus: Corpus, tokens: np.ndarray, lengths: Sequence[int]) -> list[bytes]:
    """The scored text of each document.

    Args:
        tokens: the scored tokens, documents one after another.
        lengths: how many of them each document has.
    """
    return [b"".join(corpus.tokenizer.pieces(part)) for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def means(nats: np.ndarray, texts: Sequence[bytes]) -> dict[str, Any]:
    """Means over the tokens, bytes, characters and words of the scored texts: nats are summed in float64 and divided once.

    Args:
        texts: of each document; a word is never of two documents.
    """
    total = float(nats.sum(dtype=np.float64))
    decoded = [text.decode(errors="replace") for text in texts]
    per_token, bits = total / len(nats), total / math.log(2)
    per_word = perplexity_of(total / max(1, sum(len(text.split()) for text in decoded)))
    size = sum(map(len, texts))
    return {
        "nats_per_token": per_token,
        "perplexity": perplexity_of(per_token),
        "bits_per_token": bits / len(nats),
        "bits_per_byte": bits / max(1, size),
        "bits_per_character": bits / max(1, sum(map(len, decoded))),
        "word_perplexity": None if per_word == math.inf else per_word,  # a text without spaces is one long word
        "tokens": len(nats),
        "bytes": size,
    }


def score_with_progress(
    model: SegmentModel,
    documents: list[TokenDocument],
    scoring: Scoring,
    config: TrainConfig,
    *,
    memory: str,
    answers_from: int,
    retrieved: int,
    title: str,
) -> Scores:
    """Score documents and show a progress bar with tokens and time left; of several processes, those of the first."""
    sizes = _sizes(documents, scoring)
    total = sum(sizes[index] for index in shares(sizes, ranks())[rank()])
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console()) as progress:
        task = progress.add_task(f"scoring {title}", total=total)
        return _score(
            model,
            documents,
            scoring,
            config,
            memory=memory,
            answers_from=answers_from,
            retrieved=retrieved,
            advance=lambda tokens: progress.advance(task, tokens),
        )


def _score(
    model: SegmentModel,
    documents: list[TokenDocument],
    scoring: Scoring,
    config: TrainConfig,
    *,
    answers_from: int,
    memory: str = "on",
    retrieved: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Scores:
    """Score documents, which several processes share; each of them has the scores of all."""
    mine = shares(_sizes(documents, scoring), ranks())[rank()]
    foreign = others(documents) if memory == "foreign" else None
    own = None
    if mine:
        own = score_documents(
            model,
            [documents[index] for index in mine],
            lanes=-(-scoring.lanes // ranks()),
            max_document=scoring.max_document,
            memory=memory,
            answers_from=answers_from,
            retrieved=retrieved,
            arithmetic=arithmetic(config),
            progress=advance,
            foreign=None if foreign is None else [foreign[index] for index in mine],
            answered=has_answers(documents),
        )
    parts = [(scores, indices) for scores, indices in told((own, mine)) if scores is not None]
    return parts[0][0] if ranks() == 1 else put_together(parts)


def _sizes(documents: Sequence[TokenDocument], scoring: Scoring) -> list[int]:
    """How many targets of each document are read."""
    return [min(len(document.tokens) - 1, scoring.max_document or len(document.tokens)) for document in documents]


def with_mem(settings: TrainConfig, mem: int | None, *, run: Run) -> TrainConfig:
    """The settings that a run was trained with, with another memory size unless `mem` is None.

    Raises:
        UserError: the memory cannot have this size.
    """
    if mem is None or mem == settings.mem:
        return settings
    refuse_fixed_memory(run, type(settings.arch), trained=settings.mem, asked=mem)
    item = TrainConfig.__dataclass_fields__["mem"]
    check_value("mem", mem, item.metadata, default_of(item))
    settings = replace(settings, mem=mem, bptt_segments=0)  # scoring has no gradient
    settings.arch.check(settings)
    return settings


def load_model(spec: RunSpec, *, memory: str, device: str, lanes: int = 1) -> SegmentModel:
    """The model with the run's last weights.

    Args:
        lanes: how many documents it will read in parallel.

    Raises:
        UserError: the run has no weights, or none that fit; there is no such device, or the model does not fit or cannot run there;
            or `memory` is not "on" and the model has no memory.
    """
    on = pick_device(device)
    if spec.config.tf32 and not has_tf32(on):
        warn(f"tf32 is true, but {describe(on, asked='cpu').name} has no TF32; its layers are not rounded")
    _refuse_too_large(spec, on, memory=memory, lanes=lanes)
    model = build_model(spec.config, vocabulary=spec.corpus.vocabulary, classes=len(spec.corpus.classes))
    if memory != "on" and not model.memory_slots:
        raise UserError(
            f"memory is {memory}, but {spec.run.name} with mem={spec.config.mem} has no memory; expected memory=on. "
            "(A cache is not a memory: mem=0 switches the cache of arch=xl off)"
        )
    model.check_device(on)
    restore_trained(model, spec.run, identity=spec.hash)
    return model.to(on)


def _refuse_too_large(spec: RunSpec, device: torch.device, *, memory: str, lanes: int) -> None:
    """Refuse settings of a run folder that ask for more memory than the weights or this device have, before any is taken.

    Args:
        memory: on, off or foreign.
        lanes: how many documents are read in parallel.

    Raises:
        UserError: the model has more parameters than the run's weights, or scoring with it does not fit.
    """
    config, size, path = spec.config, spec.config.size, spec.run.path / WEIGHTS
    saved = path.stat().st_size if path.is_file() else 0
    # each layer and token has a vector; of a published checkpoint only what was trained is saved
    needed = 0 if size.checkpoint is not None else 4 * size.width * max(size.layers, spec.corpus.vocabulary)
    if saved and needed <= saved:
        on_gpu = device.type == "cuda"
        with torch.device("meta"):
            model = build_model(config, vocabulary=spec.corpus.vocabulary, classes=len(spec.corpus.classes))
            needed = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            needs = room(
                model, lanes=lanes, half=config.precision == "bf16", on_gpu=on_gpu, foreign=memory == "foreign"
            )
        here = needs.here + FULL * sum(parameter.numel() for parameter in model.parameters())
        for needed_bytes, available, whose in (
            (here, describe(device, asked="").memory, "this GPU") if on_gpu else (here, memory_bytes(), "this machine"),
            (needs.elsewhere, memory_bytes(), "this machine, where arch.stored_on=host keeps it"),
        ):
            if needed_bytes > available:
                raise UserError(
                    f"mem={config.mem} and segment={config.segment} need {needed_bytes / 1e9:,.1f} GB in {plural(lanes, 'lane')}; expected "
                    f"at most {available / 1e9:,.1f} GB, the memory of {whose}. A smaller eval.lanes or mem may help"
                )
    if saved and needed > 1.01 * saved + 4096:
        raise UserError(
            f"{path} has {saved:,} bytes, but the settings of the run ask for a model of {needed:,} bytes; expected weights of "
            f"that model. Likely cause: it was cut short, or config.yaml was edited; {how_to_train_again(spec.run, spec.run.summary or {})}"
        )


def reopen(run: Run, config: TrainConfig, root: Path) -> RunSpec:
    """The spec of a trained run, with its corpus; if the corpus no longer exists, it is prepared again.

    Args:
        config: the settings that the run was trained with; only the memory size may differ.

    Raises:
        UserError: the corpus is not the one the run was trained on, or the identity is damaged.
    """
    identity = read_identity(run)
    trained_on = identity.get("data", {})
    corpus = for_task(_corpus_of(run, config, trained_on, root), config.data)
    for name, current in corpus.content.items():
        if (trained := str(trained_on.get(name))) != current:
            raise UserError(
                f"{run.name} was trained on a corpus with {name} {trained[:8]}, but {corpus.path} has {current[:8]}; "
                "expected the same, because otherwise training documents could be scored. Likely cause: the corpus was prepared "
                "again from other text, such as after an upgrade"
            )
    return RunSpec(run, config, corpus, identity, root)


def _corpus_of(run: Run, config: TrainConfig, trained_on: dict[str, Any], root: Path) -> Corpus:
    """The corpus of a run. What a run folder asks for is prepared only if memexp itself has it, for another person may have written
    the folder, and preparing can read files, fetch packages and build them.

    Raises:
        UserError: the corpus is not here and has settings of its own.
    """
    summary = run.summary or {}
    folder = recorded(str(summary["corpus"]), root) if summary.get("corpus") else None
    if folder is not None and (folder / "manifest.json").exists():
        return open_corpus(folder)
    content = {name: str(trained_on.get(name)) for name in ("tokens_checksum", "documents_checksum", "tokenizer_hash")}
    if (other := with_content(content, root)) is not None:
        return open_corpus(other)
    if not is_built_in(config.data):
        words = [word for word in _words(str(summary.get("command", ""))) if word.startswith(("data=", "data."))]
        raise UserError(
            f"the corpus of {run.name} is not in {root / 'data'}, and its settings are none of memexp's own; expected it to be prepared. "
            f"`{shlex.join(['memexp', 'prepare', *(words or [f'data={config.data.name}'])])}` does that, if you trust where it comes from"
        )
    return prepare(config.data, root)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []

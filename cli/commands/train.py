"""`memexp train`: train a model, then score held-out documents."""

import shlex
import sys
from dataclasses import replace

from memexp.cli.together import in_all_processes
from memexp.config.field import default_of
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.terminal import Remark
from memexp.wording import partly, plural


def run(config: TrainConfig) -> None:
    """Train to the end and score the held-out documents, unless that is done already; with profile=true, only profile some steps."""
    in_all_processes(_train, config)


def _train(config: TrainConfig) -> None:
    from memexp.config.checks import remarks
    from memexp.cost.memory import refuse_what_cannot_fit
    from memexp.data.classes import for_task
    from memexp.data.library import prepare
    from memexp.data.manifest import is_cut, splitting_of
    from memexp.eval.evaluate import Request, kept_score, pick_documents, score_run, validation_nats
    from memexp.files import find_root
    from memexp.launch.processes import announce
    from memexp.ranks.exchange import first, is_first, ranks, wait
    from memexp.store.scores import never_full
    from memexp.terminal import escape, escape_lines, tell, typed_words, warn
    from memexp.train.interrupt import Interrupted
    from memexp.train.loop import train
    from memexp.train.spec import specify
    from memexp.wording import number

    root = find_root(config.root)
    if ranks() > 1:
        first(lambda: prepare(config.data, root) and None)  # only one makes it, then all find it
    corpus = for_task(prepare(config.data, root), config.data)
    _refuse_padding(config, max((len(document.tokens) for document in corpus.split("train")), default=0))
    spec = specify(config, corpus, root)
    config = spec.config
    of_one = replace(config, lanes=max(1, config.lanes // ranks()))
    refuse_what_cannot_fit(of_one, vocabulary=corpus.vocabulary, classes=len(corpus.classes), devices=ranks())
    command = shlex.join(["memexp", *typed_words()])
    if config.profile:
        from memexp.train.profiling import profile

        tell(spec.notes)
        print(escape_lines(profile(spec, command=command)))
        return
    for split in {config.eval.split, *(["valid"] if config.validate_every else [])}:
        # refuses before the work if there is none
        pick_documents(corpus, replace(config.eval, split=split, documents=1))
    if is_first():
        announce(spec.run.path)
    if is_cut(corpus.manifest):
        print(escape(f"{corpus.name} is {splitting_of(corpus.manifest)}"))
    tell([*spec.notes, *remarks(config), *_read_alike(config, len(corpus.split("train")))])
    try:
        trained = train(spec, command=command, validate=lambda model: validation_nats(model, corpus, config))
    except Interrupted as stop:
        print(escape(str(stop)), file=sys.stderr)
        wait()  # until all have saved, on a GPU in the background: srun may kill the others when the first process ends
        raise SystemExit(128 + stop.signal_number) from stop
    if config.steps and not (trained.summary or {}).get("tokens"):
        warn(
            f"nothing was scored in {plural(config.steps, 'step')}, so nothing was learned. Likely cause: answers stand at the ends of "
            "documents, which were not reached; increase steps, segment or accumulate"
        )
    request = Request(config.eval, device=config.device)
    if not first(lambda: kept_score(trained, config, request) is not None):
        score_run(spec, request, command=command)
    if not is_first():
        return
    score = kept_score(trained, config, request)
    assert score is not None
    summary = score.summary
    print(
        f"{escape(trained.name)}: perplexity {number(summary['perplexity'], 3)} ({summary['nats_per_token']:.4f} nats per token) on "
        f"{summary['tokens']:,} tokens of {summary['documents']} {summary['split']} documents"
    )
    if "f1" in summary:
        print(f"F1 {summary['f1']:.4f}, macro {summary['f1_macro']:.4f}, accuracy {summary['accuracy']:.4f}")
    elif "accuracy" in summary:
        print(f"accuracy {summary['accuracy']:.4f}, exact match {summary['exact_match']:.4f}")
    if never_full(summary["memory_fill"], slots=summary["memory_slots"], segment=config.segment):
        warn(
            f"at most {partly(summary['memory_fill'])} of the {summary['memory_slots']:,} slots were filled during scoring, "
            "because no scored document is long enough (see eval.max_document); more memory cannot help"
        )
    print(escape(str(trained.path)))


def _read_alike(config: TrainConfig, documents: int) -> list[Remark]:
    """A warning if lanes read the same text at the same time, because there are fewer documents than lanes.

    Args:
        documents: of the training split.
    """
    if config.data.max_document or documents >= config.lanes:
        return []
    return [
        Remark(
            f"{config.lanes} lanes read {plural(documents, 'training document')} from the start, so most of them read the same text at "
            "the same time; data.max_document=4096 lets each read a random part of this length"
        )
    ]


def _refuse_padding(config: TrainConfig, longest: int) -> None:
    """Refuse a long segment that no document fills: a step would take its time for padding.

    A segment may be as long as the power of two above the longest document, so that it holds whole documents, or as the default.

    Args:
        longest: tokens of the longest document of the training split.

    Raises:
        UserError: says how long the documents are.
    """
    longest = min(longest, config.data.max_document or longest)
    default = default_of(TrainConfig.__dataclass_fields__["segment"])
    if config.segment > max(default, 1 << max(longest - 1, 0).bit_length()):
        raise UserError(
            f"segment is {config.segment:,}, but the longest document that training on data={config.data.name} reads has {longest:,} "
            f"tokens, so most of every segment would be padding; expected segment={longest} or less"
        )

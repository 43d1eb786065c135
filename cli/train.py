"""memexp train: train a model, then score held-out documents."""

import shlex
import sys

from memexp.config import TrainConfig, departures


def remarks(config: TrainConfig) -> list[str]:
    """What a user should know before a run starts; a sweep prints it once for all its jobs."""
    found = []
    if departing := departures(config):
        found.append(f"departs from the papers: {', '.join(departing)}")
    if 0 < config.steps <= config.optim.warmup:
        found.append(
            f"warning: steps is {config.steps:,} and optim.warmup {config.optim.warmup:,}, so the learning rate never gets to what was "
            "asked for; lower optim.warmup"
        )
    if config.arch.mem_is == "state":
        for name, longest in (
            ("data.max_document", config.data.max_document),
            ("eval.max_document", config.eval.max_document),
        ):
            if 0 < longest < config.mem:
                found.append(
                    f"warning: mem is {config.mem:,} but {name} cuts documents at {longest:,} tokens, so the rest of the "
                    f"memory stays empty there; raise {name}, or set it to 0 for whole documents"
                )
    return found


def run(config: TrainConfig) -> None:
    """Train to the end and score the held-out documents, as far as neither has been done; or only profile some steps."""
    from memexp.bench.plan import refuse_what_cannot_fit
    from memexp.cli.sweep import announce
    from memexp.data.classes import for_task
    from memexp.data.corpus import prepare
    from memexp.eval.evaluate import Request, evaluate, validation_nats
    from memexp.report.numbers import plural
    from memexp.runs import find_root
    from memexp.train.identity import identify, run_folder
    from memexp.train.interrupt import Interrupted
    from memexp.train.loop import train

    root = find_root(config.root)
    corpus = for_task(prepare(config.data, root), config.data)
    refuse_what_cannot_fit(config, vocabulary=corpus.vocabulary)
    command = shlex.join(["memexp", *sys.argv[1:]])
    if config.profile:
        from memexp.train.profiling import profile

        print(profile(config, corpus, root, command=command))
        return
    announce(run_folder(config, identify(config, corpus, root), root).path)
    for line in remarks(config):
        print(line)
    try:
        trained = train(
            config, corpus, root, command=command, validate=lambda model: validation_nats(model, corpus, config)
        )
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(128 + stop.signal_number) from stop
    if not (trained.summary or {}).get("tokens"):
        print(
            f"warning: nothing was scored in {plural(config.steps, 'step')}, so nothing was learned; answers stand at the ends of documents, "
            "which need more steps, longer segments or a larger accumulate to be reached"
        )
    score = evaluate(trained, Request(config.eval, device=config.device), root, command=command)
    summary = score.summary
    print(
        f"{trained.name}: perplexity {summary['perplexity']:.3f} ({summary['nats_per_token']:.4f} nats a token) on "
        f"{summary['tokens']:,} tokens of {summary['documents']} {summary['split']} documents"
    )
    if "f1" in summary:
        print(f"F1 {summary['f1']:.4f}, macro {summary['f1_macro']:.4f}, accuracy {summary['accuracy']:.4f}")
    elif "accuracy" in summary:
        print(f"accuracy {summary['accuracy']:.4f}, exact match {summary['exact_match']:.4f}")
    if summary["memory_fill"] is not None and summary["memory_fill"] < 1:
        print(
            f"warning: at most {int(100 * summary['memory_fill'])}% of the {summary['memory_slots']:,} slots were ever filled while "
            "scoring: no document is long enough there (see eval.max_document), so more memory cannot help"
        )
    print(trained.path)

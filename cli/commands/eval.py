"""`memexp eval`: score documents with a trained model, with its memory or a changed one."""

import shlex
from dataclasses import asdict, replace

from memexp.cli.together import in_all_processes
from memexp.config.commands import EvalConfig


def run(config: EvalConfig) -> None:
    """Make the score, unless it exists, and print its means."""
    in_all_processes(_eval, config)


def _eval(config: EvalConfig) -> None:
    import torch
    from rich.table import Table
    from rich.text import Text

    from memexp.eval.evaluate import Request, evaluate
    from memexp.files import find_root
    from memexp.ranks.exchange import is_first
    from memexp.report.escape import Fitting, console, escape
    from memexp.store.folder import find_run
    from memexp.store.identity import trained_settings
    from memexp.terminal import tell, typed_words
    from memexp.train.remarks import of_the_precision
    from memexp.train.spec import as_asked
    from memexp.wording import number

    root = find_root(config.root)
    trained = find_run(root, config.run)
    settings = trained_settings(trained)
    scoring = config.eval.of(asdict(settings.eval))
    if config.threads:
        torch.set_num_threads(config.threads)
    request = Request(scoring, mem=config.mem, memory=config.memory, retrieved=config.retrieved, device=config.device)
    command = shlex.join(["memexp", *typed_words()])
    score = evaluate(trained, settings, request, root, command=command, force=config.force)
    if not is_first():
        return
    tell(of_the_precision(settings, as_asked(replace(settings, device=config.device))))
    summary = score.summary
    table = Table(title=Text(escape(f"{trained.name}  {score.path.name}")))
    table.add_column("on these documents")
    table.add_column("", justify="right")
    for name, value in (
        ("perplexity", number(summary["perplexity"], 3)),
        ("nats per token", f"{summary['nats_per_token']:.4f}"),
        ("bits per token", f"{summary['bits_per_token']:.4f}"),
        ("bits per byte", f"{summary['bits_per_byte']:.4f}"),
        ("bits per character", f"{summary['bits_per_character']:.4f}"),
        ("perplexity per word", "–" if summary["word_perplexity"] is None else number(summary["word_perplexity"], 1)),
        ("tokens", f"{summary['tokens']:,}"),
        ("tokens/s", f"{summary['tokens_per_second']:,.0f}"),
    ):
        table.add_row(name, value)
    if "accuracy" in summary:
        table.add_row("accuracy", f"{summary['accuracy']:.4f}")
        table.add_row("exact match", f"{summary['exact_match']:.4f}")
    if "f1" in summary:
        table.add_row("F1", f"{summary['f1']:.4f}")
        for name, scores in summary["classes"].items():
            table.add_row(Text(escape(f"F1 of {name} ({scores['documents']} documents)")), f"{scores['f1']:.4f}")
        table.add_row("F1, macro", f"{summary['f1_macro']:.4f}")
    if summary["memory_fill"] is not None:
        table.add_row("memory filled at most", f"{summary['memory_fill']:.0%}")
    if hardware := summary.get("hardware"):
        table.add_row("device", ": ".join(str(hardware[key]) for key in ("name", "reason") if key in hardware))
    console().print(Fitting(table))
    print(escape(str(score.path)))

"""`memexp prepare`: turn a corpus into tokens and print its contents."""

from memexp.config.commands import PrepareConfig


def run(config: PrepareConfig) -> None:
    """Prepare the corpus, unless that is done already, and print its splits."""
    from rich.table import Table
    from rich.text import Text

    from memexp.data.library import prepare
    from memexp.data.manifest import splitting_of, tokenizer_name
    from memexp.data.sources.notes import said
    from memexp.data.splits import SPLITS
    from memexp.files import find_root
    from memexp.report.escape import Fitting, console, escape

    root = find_root(config.root)
    corpus = prepare(config.data, root, force=config.force)
    splits = corpus.manifest["splits"]
    screen = console()
    table = Table(title=Text(escape(f"{corpus.name}: {corpus.path}")))
    table.add_column("split")
    for heading in ("documents", "bytes", "tokens", "bytes/token"):
        table.add_column(heading, justify="right")
    for split in SPLITS:
        count = splits[split]
        ratio = count["bytes"] / max(count["tokens"], 1)
        table.add_row(split, *(f"{count[key]:,}" for key in ("documents", "bytes", "tokens")), f"{ratio:.2f}")
    screen.print(Fitting(table))
    if splitting := splitting_of(corpus.manifest):
        screen.print(escape(splitting), markup=False, highlight=False, soft_wrap=True)
    left_out = corpus.manifest["left_out"]
    if left_out["documents"]:
        shortest = config.data.min_document
        screen.print(f"left out: {left_out['documents']} documents shorter than {shortest:,} bytes")
    if not corpus.made:  # else they were said while it was made
        for line in said(corpus.manifest["source"].get("notes", {})):
            screen.print(escape(line), markup=False, highlight=False, soft_wrap=True)
    if near := corpus.manifest["source"].get("near_duplicates"):
        screen.print(f"left out: {len(near)} documents that are near-duplicates of longer ones")
    lossy = "" if corpus.tokenizer.lossless else ", lossy: bytes are counted in the decoded text"
    name = escape(tokenizer_name(corpus.manifest))
    screen.print(f"tokenizer: {name}, {corpus.tokenizer_hash[:8]}{lossy}", markup=False)
    by_licence: dict[str, list[str]] = {}
    for part in corpus.manifest["source"]["parts"]:
        by_licence.setdefault(part["licence"], []).append(f"{part['name']} {part['version']}")
    for licence, parts in sorted(by_licence.items()):
        screen.print(escape(f"{licence}: {', '.join(parts)}"), style="dim", markup=False, highlight=False)
    made = (
        f"prepared in {corpus.manifest['seconds']} s"
        if corpus.made
        else "was prepared already; force=true prepares it again"
    )
    screen.print(made)

"""Checks before anything is computed: values out of range, unknown choices, settings that make no sense together."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.arch.base import AttentionArch
from memexp.config.checkpoints import scores_another
from memexp.config.commands import BenchConfig, DataConfig, EvalConfig, ReproduceConfig
from memexp.config.field import AS_TYPED, UNSET, changed, default_of
from memexp.config.groups import Data, Optim, Scoring, Size, Slurm, Tracker
from memexp.config.sources import SourceOptions, TaskOptions
from memexp.config.synonyms import meant_value, suggestion
from memexp.config.train import TrainConfig, departures
from memexp.config.words import seconds_in, shown
from memexp.errors import UserError
from memexp.terminal import Remark, unreadable

BEYOND = 1 << 48
"""No size or count is this large; some libraries fail at larger numbers."""

SHORTEST_JOB = 300
"""Seconds that a job on a cluster may take at least."""

SET_OTHERWISE = (
    "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue", "no-requeue", "output", "error",
    "open-mode", "job-name", "array", "partition", "account",
)  # fmt: skip
"""Options of sbatch that follow from settings, or that saving and continuing need as they are."""

LONGEST_PROJECT = 128
"""Characters of a project's name in Weights & Biases."""


def check(config: Any, where: str = "") -> None:
    """Refuse values out of range, unknown choices and settings that make no sense together.

    Args:
        config: an instance of a schema.
        where: the dotted name of `config` itself, for messages.

    Raises:
        UserError: names the first wrong setting, what was seen and what was expected.
    """
    # Groups come last, because values in them may follow those outside, which the user has typed.
    for item in sorted(fields(config), key=lambda item: is_dataclass(getattr(config, item.name))):
        name = f"{where}.{item.name}" if where else item.name
        value = getattr(config, item.name)
        if is_dataclass(value):
            check(value, name)
            continue
        for key, nested in value.items() if isinstance(value, dict) else ():
            if is_dataclass(nested):
                check(nested, f"{name}.{key}")
        check_value(name, value, item.metadata, default_of(item))
    if isinstance(config, SourceOptions):
        config.check()
    if isinstance(config, Slurm):
        _check_slurm(config)
    if isinstance(config, Data) and config.path is not None and not config.source.reads_files:
        raise UserError(
            f"data.path is {config.path}, but data={config.name} reads no files; expected data=text or a published data set "
            "with it"
        )
    if isinstance(config, Data) and config.source.has_new_words and config.tokenizer.kind == "words":
        no_path = config.path is None
        raise UserError(
            f"data.tokenizer.kind is words{' and data.path is not given' * no_path}, but held-out documents of data={config.name} have "
            "words of a text that no training document need have; expected data.tokenizer.kind=bpe or bytes"
            f"{' and in data.path the folder of a prepared corpus, which `memexp data list` shows' * no_path}, or data.source.noise=sentences"
        )
    if isinstance(config, TrainConfig):
        _check_train(config)
    if isinstance(config, DataConfig):
        _check_data(config)
    if isinstance(config, BenchConfig):
        _check_bench(config)
    if isinstance(config, ReproduceConfig):
        _check_reproduce(config)


def check_value(name: str, value: Any, metadata: Any, default: Any) -> None:
    """Refuse one value that is not given, out of range or an unknown choice, or text that cannot be meant.

    Args:
        name: the dotted name of the setting, for messages.
        metadata: of the setting's field, as `setting` made it.
        default: of the setting; text of blanks is allowed if it is this.

    Raises:
        UserError: names the setting, what was seen and what was expected.
    """
    if value == UNSET:
        raise UserError(f"{name} is not given; expected {metadata['help']}")
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    values = value if isinstance(value, list) else [] if value is None else [value]
    for text in values:
        if isinstance(text, str):
            _check_text(name, text, metadata, given=value != default)
    for word in values if choices else []:
        if word not in choices:
            meant = suggestion(meant_value(name, str(word), choices), f"{name}=")
            raise UserError(f"{name} is {word!r}; expected one of {', '.join(choices)}{meant}")
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if isinstance(number, int) and abs(number) >= BEYOND:
            raise UserError(f"{name} is {shown(value)[1:-1]}; expected less than 2^48")
        if not math.isfinite(number):
            raise UserError(f"{name} is {value}; expected a finite number")
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            expected = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            unit = f" {metadata['unit']}" if metadata.get("unit") else ""
            unit = unit.removesuffix("s") if expected == "at least 1" else unit
            raise UserError(f"{name} is {value}; expected {expected}{unit}{' each' if isinstance(value, list) else ''}")


def check_values(config: Any, where: str = "") -> None:
    """Refuse values out of range and unknown choices, but nothing that was allowed when a run was trained.

    Args:
        config, where: as `check` takes them.

    Raises:
        UserError: as `check`.
    """
    for item in fields(config):
        name, value = f"{where}.{item.name}" if where else item.name, getattr(config, item.name)
        if is_dataclass(value):
            check_values(value, name)
        else:
            check_value(name, value, item.metadata, default_of(item))


def _check_text(name: str, text: str, metadata: Any, *, given: bool) -> None:
    if given and not text.strip() and not metadata.get("empty"):
        raise UserError(f"{name} is {text!r}; expected {metadata['help']}")
    if unreadable(text) and metadata.get("unit") != AS_TYPED:
        raise UserError(f"{name} is {shown(text)}; expected UTF-8 without control characters and line ends")
    if text.startswith("~") and metadata.get("unit") in ("path", "run", "runs"):
        try:
            Path(text).expanduser()
        except RuntimeError as error:
            raise UserError(
                f"{name} is {shown(text)}, but there is no user {text[1:].partition('/')[0]}; expected a path. A file of this "
                f"name is ./{text}"
            ) from error


def _check_data(config: DataConfig) -> None:
    unused = ("split", "ngram", "sample", "out") if config.what == "list" else ("page",)
    for name in unused:
        if changed(config, name):
            raise UserError(
                f"{name} is {str(getattr(config, name)).lower()}, but `memexp data {config.what}` does not use it; expected it with "
                f"`memexp data {'inspect' if config.what == 'list' else 'list'}`"
            )


def _check_bench(config: BenchConfig) -> None:
    for alone in ("gpu", "devices", "checkpoint"):
        if alone in config.what and (others := [name for name in config.what if name != alone]):
            raise UserError(
                f"what is {','.join(config.what)}, but {alone} runs alone, because {','.join(others)} would measure something else beside "
                f"it; expected `memexp bench {alone}`"
            )
    if ("checkpoint" in config.what) != (config.checkpoint is not None):
        raise UserError(
            f"what is {','.join(config.what) or 'not given'} and checkpoint {config.checkpoint or 'not given'}; expected both, as in "
            "`memexp bench checkpoint checkpoint=FOLDER`, or neither"
        )
    if "gpu" in config.what:
        return
    for name in ("only", "minutes"):
        if changed(config, name):
            value = shown(str(getattr(config, name)))
            raise UserError(f"{name} is {value}, but only `memexp bench gpu` uses it; expected gpu with it")


def _check_reproduce(config: ReproduceConfig) -> None:
    if len({*config.seeds}) < len(config.seeds):
        raise UserError(
            f"seeds is {config.seeds}; expected each seed only once, because a second run of it would be the same"
        )
    if config.nodes > 1 and config.launcher != "slurm":
        raise UserError(
            f"nodes is {config.nodes}, but launcher is {config.launcher}; expected launcher=slurm, which starts processes on several machines"
        )
    _check_nodes(config)


def _check_nodes(config: TrainConfig | EvalConfig | ReproduceConfig) -> None:
    if config.nodes > 1 and not config.devices:
        raise UserError(f"nodes is {config.nodes} but devices is 0; expected the number of devices of each machine")


def _check_slurm(asked: Slurm) -> None:
    if seconds_in("slurm.time", asked.time) < SHORTEST_JOB:
        raise UserError(
            f"slurm.time is {asked.time}; expected at least {SHORTEST_JOB // 60}m, because Slurm is not more exact than a minute"
        )
    if taken := [name for name in asked.others if name in SET_OTHERWISE]:
        raise UserError(
            f"slurm.options sets {taken[0]}, which memexp sets itself; expected other options. The settings are nodes=, devices=, "
            "slurm.time=, slurm.cpus=, slurm.partition= and slurm.account="
        )


def _check_train(config: TrainConfig) -> None:
    window = config.bptt_segments + 1
    if config.accumulate % window:
        raise UserError(
            f"accumulate is {config.accumulate} and bptt_segments {config.bptt_segments}; expected accumulate to be a "
            f"multiple of {window}, because a step consists of whole gradient windows of bptt_segments + 1 segments"
        )
    names = [name for name, schema in ARCHS.items() if schema is type(config.arch)]
    if config.arch.name not in names:
        raise UserError(
            f"arch.name is {config.arch.name!r}; expected {' or '.join(names)}, the architectures with these options. Likely cause: a "
            "file of your own in arch/, which keeps the name of the architecture that it configures"
        )
    config.arch.check(config)
    config.arch.check_training(config)
    if not config.steps and config.optim.train != "none" and config.init_from is None:
        raise UserError(
            "steps is 0; expected at least 1 step, or init_from=RUN, whose weights are then scored as they are, or optim.train=none, which "
            "scores a published checkpoint as it is"
        )
    if config.optim.train == "none" and config.init_from is not None:
        raise UserError(
            f"optim.train is none, so that a published checkpoint is scored as it is, but init_from={config.init_from} gives other weights; "
            "expected the optim.train and optim.rank of that run, with steps=0 to score them as they are"
        )
    if config.optim.train != "lora" and changed(config.optim, "rank"):
        raise UserError(
            f"optim.rank is {config.optim.rank}, but optim.train is {config.optim.train}, which adds no matrices; expected "
            "optim.train=lora with it"
        )
    if config.optim.train == "none" and config.data.task == "classify":
        raise UserError(
            "data.task is classify, but optim.train is none, and a published checkpoint has no vectors of the classes before it is trained; "
            "expected optim.train=lora, memory or all with it"
        )
    if config.steps and config.optim.train == "none":
        raise UserError(
            f"steps is {config.steps}, but optim.train is none, so nothing is trained; expected steps=0, or optim.train=lora, memory or all"
        )
    if config.optim.train == "none" and config.arch.random_memory and config.mem:
        raise UserError(
            f"optim.train is none, but the memory tokens of arch={config.arch.name} are random numbers before they are trained; expected "
            "optim.train=memory, lora or all with it, or another arch, such as knn or xl"
        )
    _check_devices(config)
    if config.data.cut == "chunks" and not config.data.max_document:
        raise UserError(
            "data.cut is chunks but data.max_document is 0, so documents are read whole; expected the length of a chunk in "
            "data.max_document"
        )
    _check_growth(config)
    _check_tracker(config.tracker)
    _check_cutoffs(config.size)
    if config.segment < config.data.answer:
        raise UserError(
            f"segment is {config.segment}, but an answer in data={config.data.name} has {config.data.answer} tokens and must "
            f"lie in one segment; expected segment={config.data.answer} or more"
        )
    check_scoring(config.data, config.eval)
    _check_optimizer(config.optim)


def _check_cutoffs(size: Size) -> None:
    cutoffs = size.cutoffs
    if sorted({*cutoffs}) != cutoffs or min(cutoffs, default=1) < 1:
        raise UserError(
            f"size.cutoffs is {cutoffs}; expected numbers of words in ascending order, such as [20000,40000,200000]"
        )
    if size.narrowing ** len(cutoffs) > size.width:
        raise UserError(
            f"size.narrowing is {size.narrowing} with {len(cutoffs)} cutoffs; expected a smaller number, because with "
            f"size.width={size.width} the vectors of the last cluster would have no entries"
        )


def _check_optimizer(optim: Optim) -> None:
    if optim.name == "adafactor" and changed(optim, "betas"):
        raise UserError(f"optim.betas is {optim.betas}, but Adafactor does not use it; expected optim=adamw with it")
    for name in ("momentum", "factor_from"):
        if optim.name != "adafactor" and changed(optim, name):
            raise UserError(
                f"optim.{name} is {getattr(optim, name)}, but AdamW does not use it; expected optim=adafactor with it"
            )
    if optim.momentum >= 1:
        raise UserError(f"optim.momentum is {optim.momentum}; expected at least 0 and less than 1")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"optim.betas is {optim.betas}; expected two numbers of at least 0 and less than 1")


def check_lanes_of_devices(config: TrainConfig) -> None:
    """Refuse lanes that devices cannot share out.

    Raises:
        UserError: devices would read different numbers of lanes.
    """
    count = config.devices * config.nodes
    if count and config.lanes % count:
        raise UserError(
            f"lanes is {config.lanes} and {f'nodes is {config.nodes} with ' * (config.nodes > 1)}devices is {config.devices}; expected a "
            f"multiple of {count} lanes, because all devices read as many. Use lanes={-(-config.lanes // count) * count}"
        )


def _check_devices(config: TrainConfig) -> None:
    check_lanes_of_devices(config)
    count = config.devices * config.nodes
    _check_nodes(config)
    if config.shard_weights and config.compile == "true":
        raise UserError(
            "shard_weights is true with compile=true; expected one of them: what is compiled cannot gather weights"
        )
    if count > 1 and config.profile:
        raise UserError(
            f"profile is true with {count} devices; expected devices=1, because a profile is of one process"
        )


def _check_growth(config: TrainConfig) -> None:
    first, data = config.data.grow_from, config.data
    if not first:
        return
    if data.cut != "crop" or data.task == "classify":
        seen = f"data.cut is {data.cut}" if data.cut != "crop" else "task=classify reads the start of each document"
        raise UserError(f"data.grow_from is {first}, but {seen}, so nothing is cropped; expected data.grow_from=0")
    if 0 < data.max_document <= first:
        raise UserError(
            f"data.grow_from is {first}, but crops have at most data.max_document={data.max_document} tokens, so nothing would grow; "
            "expected less than data.max_document, or 0"
        )
    if data.drop_tails and first % config.segment:
        raise UserError(
            f"data.grow_from is {first} with data.drop_tails=true; expected a multiple of segment={config.segment}, because crops "
            "then consist of whole segments"
        )


def _check_tracker(tracker: Tracker) -> None:
    """Refuse a project that Weights & Biases would refuse after the corpus is prepared and the model built."""
    wrong = sorted({mark for mark in tracker.project if mark in "/\\#?%:" or not mark.isprintable()})
    if tracker.name == "wandb" and (wrong or not tracker.project.strip() or len(tracker.project) > LONGEST_PROJECT):
        marks = f" with {', '.join(map(repr, wrong))}" if wrong else ""
        raise UserError(
            f"tracker.project is {tracker.project!r}{marks}; expected 1 to {LONGEST_PROJECT} characters without / \\ # ? % :, as Weights & "
            "Biases names projects"
        )


def check_scoring(data: Data, scoring: Scoring) -> None:
    """Refuse to score only the start of documents in a task that scores their end.

    Raises:
        UserError: says which setting to use instead.
    """
    if data.task == "classify" and scoring.max_document:
        raise UserError(
            f"eval.max_document is {scoring.max_document}, but task=classify scores the end of each document; expected "
            "eval.max_document=0. To read less of each document, in training too, set data.max_document"
        )


def _amount(config: TrainConfig) -> str:
    """How much is trained and scored."""
    data, scored = config.data, config.eval
    crops = f"crops that grow from {data.grow_from:,} tokens to {_tokens(data.max_document)}" if data.grow_from else ""
    crops = crops or (f"parts of at most {data.max_document:,} tokens" if data.max_document else "whole documents")
    count = (
        f"up to {scored.documents} {scored.split} documents" if scored.documents else f"all {scored.split} documents"
    )
    part = f"the first {scored.max_document:,} tokens of " if scored.max_document else ""
    if scores_another(config):
        return f"nothing is trained: {part}{count} are scored with the weights of {shown(str(config.init_from))[1:-1]} as they are"
    steps = "1 step reads" if config.steps == 1 else f"{config.steps:,} steps read"
    return f"{steps} {config.tokens:,} tokens, in {crops}; then {part}{count} are scored"


def _checkpoint(config: TrainConfig) -> str:
    """Which checkpoint is read, under which licence, and what is trained of it."""
    size = config.size
    at = f" at {size.revision[:8]}" if size.revision else ""
    trained = {
        "all": "all its weights are trained",
        "memory": "only the weights of the memory are trained",
        "lora": f"additions of rank {config.optim.rank} and the weights of the memory are trained",
        "none": "it is scored as it is, without a step",
    }
    of_it = (
        f"as {shown(str(config.init_from))[1:-1]} has trained it"
        if scores_another(config)
        else trained[config.optim.train]
    )
    licence = f"licence {size.licence}" if size.licence else "which names no licence"
    return f"checkpoint: {size.checkpoint}{at}, {licence}; {of_it}; its dropout is off"


def _tokens(count: int) -> str:
    return f"{count:,}" if count else "whole documents"


def remarks(config: Any) -> list[Remark]:
    """What a user of `train` should know about settings that are not refused; empty for other commands."""
    if not isinstance(config, TrainConfig):
        return []
    lines: list[Remark] = []
    lines.append(Remark(_amount(config), warns=False))
    if config.size.checkpoint is not None:
        lines.append(Remark(_checkpoint(config), warns=False))
    if departing := departures(config):
        lines.append(Remark(f"departs from the papers: {', '.join(departing)}", warns=False))
    if 0 < config.steps <= config.optim.warmup:
        lines.append(
            Remark(
                f"steps is {config.steps:,} and optim.warmup {config.optim.warmup:,}, so the learning rate never reaches "
                "optim.rate; lower optim.warmup"
            )
        )
    if isinstance(config.arch, AttentionArch) and config.arch.position == "xl" and config.arch.normalise:
        lines.append(
            Remark(
                "arch.position is xl and arch.normalise is true, so queries and keys have unit norm, which is not "
                "Transformer-XL's attention; for its attention add arch.normalise=false arch.scale=1"
            )
        )
    source = config.data.source
    if isinstance(source, TaskOptions) and config.segment < source.together:
        lines.append(
            Remark(
                f"segment is {config.segment}, but what a document of data={config.data.name} says at once has {source.together} words, so "
                f"it is cut, and only what crosses segment borders joins it; expected segment={source.together} or more"
            )
        )
    to_fill = config.arch.tokens_to_fill(config.mem)
    for name, longest in (
        ("data.max_document", config.data.max_document),
        ("eval.max_document", config.eval.max_document),
    ):
        if 0 < longest < to_fill:
            lines.append(
                Remark(
                    f"the memory is full after {to_fill:,} tokens of a document, but {name} cuts documents to {longest:,} tokens, so a "
                    f"part of the memory stays empty; raise {name}, or set it to 0 for whole documents"
                )
            )
    return lines

"""What is refused before anything is computed: values out of range, unknown words, settings that make no sense together."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

from memexp.config.arch import BlockArch, BlockKnnArch, CompressiveArch, PairArch, ThoughtArch
from memexp.config.commands import DataConfig
from memexp.config.field import UNSET, default_of
from memexp.config.groups import Data, Optim, Scoring
from memexp.config.sources import SourceOptions
from memexp.config.train import TrainConfig, departures
from memexp.errors import UserError, did_you_mean

BEYOND = 1 << 48
"""No size and no count is as large; libraries have trouble with some that are."""


def check(config: Any, where: str = "") -> None:
    """Refuse values out of range, unknown choices and settings that make no sense together.

    Args:
        config: an instance of a schema.
        where: the dotted name of `config` itself, for messages.

    Raises:
        UserError: names the first setting at fault, what was seen and what was expected.
    """
    for item in fields(config):
        name = f"{where}.{item.name}" if where else item.name
        value = getattr(config, item.name)
        if is_dataclass(value):
            check(value, name)
            continue
        for key, nested in value.items() if isinstance(value, dict) else ():
            if is_dataclass(nested):
                check(nested, f"{name}.{key}")
        _check_value(name, value, item.metadata)
    if isinstance(config, SourceOptions):
        config.check()
    if isinstance(config, Data) and config.path is not None and not config.source.reads_files:
        raise UserError(
            f"data.path is {config.path}, but data={config.name} reads no files; expected data=text or one of the published "
            "data sets with it"
        )
    if isinstance(config, TrainConfig):
        _check_train(config)
    if isinstance(config, DataConfig):
        _check_data(config)


def _check_value(name: str, value: Any, metadata: Any) -> None:
    if value == UNSET:
        raise UserError(f"{name} is not given; expected {metadata['help']}")
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    given = value if isinstance(value, list) else [] if value is None else [value]
    for word in given if choices else []:
        if word not in choices:
            raise UserError(
                f"{name} is {word!r}; expected one of {', '.join(choices)}{did_you_mean(str(word), choices)}"
            )
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            raise UserError(f"{name} is {value}; expected a finite number")
        if abs(number) >= BEYOND and isinstance(number, int):
            raise UserError(f"{name} is {value}; expected less than 2^48")
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            expected = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            unit = f" {metadata['unit']}" if metadata.get("unit") else ""
            unit = unit.removesuffix("s") if expected == "at least 1" else unit
            raise UserError(f"{name} is {value}; expected {expected}{unit}{' each' if isinstance(value, list) else ''}")


def _check_data(config: DataConfig) -> None:
    others = ("split", "ngram", "sample", "out") if config.what == "list" else ("page",)
    for name in others:
        item = DataConfig.__dataclass_fields__[name]
        if (value := getattr(config, name)) != default_of(item):
            raise UserError(
                f"{name} is {str(value).lower()}, but `memexp data {config.what}` has no use for it; expected it with "
                f"`memexp data {'inspect' if config.what == 'list' else 'list'}`"
            )


def _check_train(config: TrainConfig) -> None:
    if config.arch.mem_is == "none" and config.mem > 0:
        raise UserError(
            f"mem is {config.mem} but this architecture has no memory; expected mem=0, or an architecture that has one, such as arch=knn"
        )
    window = config.bptt_segments + 1
    if config.accumulate % window:
        raise UserError(
            f"accumulate is {config.accumulate} and bptt_segments {config.bptt_segments}; expected accumulate to be a "
            f"multiple of {window}, for a step is made of whole gradient windows of bptt_segments + 1 segments"
        )
    if config.bptt_segments and config.arch.mem_is != "parameters":
        raise UserError(
            f"bptt_segments is {config.bptt_segments}, but in arch={config.arch.name} no gradient crosses a segment border; "
            "expected 0 (its paper stops gradients at the cache and the memory)"
        )
    if config.bptt_segments and not config.mem and not isinstance(config.arch, BlockArch):  # its cache has gradient too
        raise UserError(
            f"bptt_segments is {config.bptt_segments} but mem is 0, so there is no memory for a gradient to cross a segment "
            "border through; expected bptt_segments=0, or a larger mem"
        )
    for item in fields(config.arch) if not config.mem else ():
        value = getattr(config.arch, item.name)
        if item.metadata.get("of_memory") and value != default_of(item):
            raise UserError(
                f"arch.{item.name} is {str(value).lower()} but mem is 0, so there is no memory for it to change; expected "
                f"arch.{item.name}={str(default_of(item)).lower()}, or a larger mem"
            )
    if not config.arch.normalise and config.arch.scale != 1:
        raise UserError(
            f"arch.scale is {config.arch.scale:g} but arch.normalise is false, so there is nothing to scale; expected "
            "arch.scale=1 beside it"
        )
    if config.data.cut == "chunks" and not config.data.max_document:
        raise UserError(
            "data.cut is chunks but data.max_document is 0, so documents are read whole; expected the length of a chunk in "
            "data.max_document"
        )
    cutoffs = config.size.cutoffs
    if sorted({*cutoffs}) != cutoffs or min(cutoffs, default=1) < 1:
        raise UserError(
            f"size.cutoffs is {cutoffs}; expected numbers of words, ascending, such as [20000,40000,200000]"
        )
    if config.size.narrowing ** len(cutoffs) > config.size.width:
        raise UserError(
            f"size.narrowing is {config.size.narrowing} with {len(cutoffs)} cutoffs; expected less, for at a width of "
            f"{config.size.width} nothing is left of the last cluster's vectors"
        )
    if config.segment < config.data.answer:
        raise UserError(
            f"segment is {config.segment}, but an answer of data={config.data.name} has {config.data.answer} tokens and must "
            f"lie in one segment; expected segment={config.data.answer} or more"
        )
    check_scoring(config.data, config.eval)
    if config.optim.name == "adafactor" and config.optim.betas != default_of(Optim.__dataclass_fields__["betas"]):
        raise UserError(
            f"optim.betas is {config.optim.betas}, which Adafactor has no use for; expected optim=adamw with it"
        )
    if config.arch.position in ("rotary", "xpos") and config.size.head_size % 2:
        raise UserError(
            f"size.head_size is {config.size.head_size}; expected an even number with arch.position={config.arch.position}"
        )
    if config.arch.position == "xl" and config.size.heads * config.size.head_size % 2:
        raise UserError(
            f"size.heads is {config.size.heads} and size.head_size {config.size.head_size}; expected an even product with "
            "arch.position=xl, whose waves are pairs"
        )
    if isinstance(config.arch, BlockArch):
        _check_block(config, config.arch)
    if isinstance(config.arch, ThoughtArch):
        _check_thought(config, config.arch)
    if isinstance(config.arch, CompressiveArch):
        _check_compressive(config, config.arch)
    if isinstance(config.arch, PairArch):
        _check_pairs(config, config.arch)
    if len(config.optim.betas) != 2 or not all(0 <= beta < 1 for beta in config.optim.betas):
        raise UserError(f"optim.betas is {config.optim.betas}; expected two numbers from 0 up to but not including 1")


def check_scoring(data: Data, scoring: Scoring) -> None:
    """Refuse to score a part of a document where what is scored stands at its end.

    Raises:
        UserError: says which setting is meant instead.
    """
    if data.task == "classify" and scoring.max_document:
        raise UserError(
            f"eval.max_document is {scoring.max_document}, but with task=classify what is scored stands at a document's end; "
            "expected 0. How much of a document is read, in training too, is data.max_document"
        )


def _check_layers(name: str, layers: list[int], config: TrainConfig) -> None:
    if len(set(layers)) != len(layers) or not all(1 <= layer <= config.size.layers for layer in layers):
        raise UserError(f"arch.{name} is {layers}; expected different layers from 1 to {config.size.layers}")


def _check_pairs(config: TrainConfig, arch: PairArch) -> None:
    _check_layers("knn_layers", arch.knn_layers, config)
    if arch.combine == "joint" and arch.gate:
        raise UserError(
            f"arch.gate is {arch.gate:g} but arch.combine is joint, which has no gate; expected arch.combine=gate"
        )
    if arch.search == "routed" and arch.stored_on == "host":
        raise UserError(
            "arch.stored_on is host but arch.search is routed, which weighs every pair of the memory where the model is; "
            "expected arch.stored_on=device, or arch.search=exact"
        )
    if config.recompute and arch.search == "faiss_hnsw":
        raise UserError(
            "recompute is true but arch.search is faiss_hnsw, whose graph finds other neighbours when a segment is computed "
            "again; expected recompute=false, or arch.search=faiss_ivf"
        )
    name, pairs = ("arch.pairs", arch.pairs) if isinstance(arch, BlockKnnArch) else ("mem", config.mem)
    if 0 < pairs < arch.neighbours:
        raise UserError(
            f"{name} is {pairs} but arch.neighbours {arch.neighbours}; expected a memory of at least as many pairs as each "
            "token retrieves"
        )


def _check_compressive(config: TrainConfig, arch: CompressiveArch) -> None:
    for name, tokens in (("segment", config.segment), ("arch.cache", arch.cache)):
        if tokens % arch.factor:
            raise UserError(
                f"{name} is {tokens} and arch.factor {arch.factor}; expected a multiple of it, so that whole groups leave "
                "the cache"
            )


def _check_block(config: TrainConfig, arch: BlockArch) -> None:
    if config.segment % arch.window:
        raise UserError(
            f"segment is {config.segment} and arch.window {arch.window}; expected whole windows in a segment, so that it "
            "does not matter how a text is cut"
        )
    _check_layers("recurrent_layers", arch.recurrent_layers, config)
    if isinstance(arch, BlockKnnArch) and arch.cache_dropout and arch.write == "leaving":
        raise UserError(
            f"arch.cache_dropout is {arch.cache_dropout:g} but arch.write is leaving, and a cache that was dropped leaves "
            "nothing to store; expected arch.write=all, or no dropout"
        )


def _check_thought(config: TrainConfig, arch: ThoughtArch) -> None:
    if arch.faithful and arch.recall_target == "tokens":
        raise UserError(
            "arch.recall_target is tokens but arch.faithful is true, and the published code recalls activations; expected "
            "arch.recall_target=embeddings beside it"
        )
    if config.mem and not arch.faithful and config.size.head_size % 2:
        raise UserError(
            f"size.head_size is {config.size.head_size}; expected an even number, for what rewrites the memory has rotary "
            "positions"
        )


def remarks(config: Any) -> list[str]:
    """What a user should know of settings that are not refused; of other commands than `train` there is nothing to say."""
    if not isinstance(config, TrainConfig):
        return []
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

"""What a user should know of the settings of a run, on this device: said when it begins, and by a dry run."""

from functools import cache

import torch

from memexp.config import checks
from memexp.config.train import TrainConfig
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.terminal import Remark
from memexp.train.compilation import asked_to_compile, compilable_methods, missing_compiler
from memexp.train.precision import slow_here
from memexp.train.spec import as_asked, settled_here


def of_the_model(model: SegmentModel, config: TrainConfig, device: torch.device) -> list[Remark]:
    """What cannot be done, or is slow or peculiar, for this model on this device."""
    remarks = [*model.remarks(device), *of_the_precision(config, device)]
    if not config.checkpoint_memory and not model.memory_slots:
        without = f"arch={config.arch.name} has no memory here besides its cache, which checkpoints hold"
        remarks.append(Remark(f"checkpoint_memory=false has no effect: {without}"))
    return remarks + ([_of_compiling(model, config, device)] if asked_to_compile(model, config, device) else [])


def of_the_precision(config: TrainConfig, device: torch.device) -> list[Remark]:
    """What is slow in the precision of a run, on this device."""
    if config.precision != "bf16" or not slow_here(device):
        return []
    processor = "GPU" if device.type == "cuda" else "CPU"
    what = f"precision=bf16: this {processor} has no instructions for it"
    return [Remark(f"{what}; precision=fp32 would be many times faster")]


def _of_compiling(model: SegmentModel, config: TrainConfig, device: torch.device) -> Remark:
    asked, warns = f"compile={config.compile}", config.compile == "true"
    if missing := missing_compiler(device):
        return Remark(f"{asked} has no effect: {missing} was not found; torch.compile needs it", warns=warns)
    if not compilable_methods(model):
        nothing = f"the layers of arch={config.arch.name} declare nothing to compile"
        return Remark(f"{asked} has no effect: {nothing}", warns=warns)
    return Remark(f"{asked}: the layers are compiled at the first step, which takes longer", warns=False)


def remarks(config: TrainConfig) -> list[Remark]:
    """All that is known before the corpus is read: of the settings, then of their model, which is built without its weights.

    With device=cuda, as if there were a GPU: the run may be for another machine.
    """
    here = settled_here(config)
    refusal = [Remark(f"this would be refused: {here.refusal}")] if here.refusal else []
    return [here.note, *refusal, *checks.remarks(here.config), *_of_a_model_of(_Hashed(here.config))]


class _Hashed:
    """Settings by what the model's remarks depend on, so that the jobs of a sweep share a model."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        of_model = (config.arch, config.size, config.mem, config.segment, config.bptt_segments)
        self._key = repr((of_model, config.precision, config.compile, config.device, config.checkpoint_memory))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self._key == other._key


@cache
def _of_a_model_of(hashed: _Hashed) -> list[Remark]:
    config = hashed.config
    device = as_asked(config)
    with torch.device("meta"):
        model = build_model(config, vocabulary=max(2, config.data.tokenizer.vocabulary))
    return of_the_model(model, config, device)

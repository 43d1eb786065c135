"""Everything that a run does works on a CUDA device, with every setting, and the host waits only where it must."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields

import pytest

from memexp.config.arch import ARCHS as SCHEMAS
from memexp.errors import UserError

from ..counting import Seen
from ..messages import says
from .cases import CASES, ON_HOST, WITHOUT_TRITON, searches_on_the_host
from .work import Walk, on_gpu, open_on_gpu, walk

FOR_A_MEMORY_ON_THE_HOST = {"memexp/model/knn_memory/ring.py": 5, "memexp/model/knn_memory/retrieved.py": 1}
"""How often the host waits in each pass of a memory: to know what is readable and what was found, and to have the new pairs."""


@pytest.mark.hard
@pytest.mark.parametrize("case", WITHOUT_TRITON, ids=" ".join)
def test_a_run_does_the_same_without_triton(case: tuple[str, ...], there: Callable[..., Walk]) -> None:
    check(case, there(walk, *case, triton=False))


@pytest.mark.hard
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_run_does_the_same_on_a_gpu(case: tuple[str, ...], there: Callable[..., Walk]) -> None:
    check(case, there(walk, *case))


@pytest.mark.hard
def test_a_search_that_is_not_there_for_gpus_is_refused_before_the_first_step(there: Callable[..., None]) -> None:
    if hasattr(pytest.importorskip("faiss"), "StandardGpuResources"):
        pytest.skip("this faiss is for GPUs")
    with pytest.raises(UserError, check=says("faiss_flat on CUDA", "expected", "arch.search=exact")):
        there(open_on_gpu, "arch=knn", "arch.search=faiss_flat")


def check(case: tuple[str, ...], seen: Walk) -> None:
    """What holds for a run with any settings."""
    assert seen.same_form
    assert seen.state_on <= {"cuda:0"}
    assert seen.gauges_on <= {"cuda:0"}
    for part in (seen.step, seen.score, seen.inspect, seen.generate):
        assert not part.serial
        assert not part.unfused
        assert not part.convolutions
    for part in (seen.score, seen.inspect, seen.generate):
        assert not part.plans
    if searches_on_the_host(case):
        return
    config = on_gpu(*case)
    allowed: dict[str, int] = {}
    if ON_HOST in case:
        windows = -(-config.segment // (getattr(config.arch, "window", 0) or config.segment))
        passes = windows * config.accumulate * (1 + config.recompute)
        allowed |= {file: most * passes for file, most in FOR_A_MEMORY_ON_THE_HOST.items()}
    waits = waits_of(seen.step)
    assert waits.pop("memexp/train/loop.py") == 1
    assert not {file: count for file, count in waits.items() if count > allowed.get(file, 0)}
    # each of a few scorings waits once a stride, and then for all gauges
    for part, scorings in ((seen.score, 3), (seen.inspect, 1)):
        assert waits_of(part).keys() <= {"memexp/train/batch.py", "memexp/model/watching.py", *allowed}
        assert waits_of(part)["memexp/train/batch.py"] <= seen.strides * scorings
        assert waits_of(part)["memexp/model/watching.py"] <= scorings
    for part in (seen.step, seen.score, seen.inspect, seen.generate):
        assert not {line for line in part.pageable if not tried_once(line)}


def waits_of(seen: Seen) -> Counter[str]:
    """How often the host waited, by file."""
    waits: Counter[str] = Counter()
    for line, count in seen.waits.items():
        if not tried_once(line):
            waits[line.split(":")[0]] += count
    return waits


def tried_once(line: str) -> bool:
    """Whether a line belongs to the small search by which a process finds out once whether kernels are right."""
    return "fault_of" in line


@pytest.mark.hard
def test_every_choice_is_walked_through() -> None:
    """Of every option of an architecture that is a choice or a switch, each value is in some case."""
    configs = [on_gpu(*case) for case in CASES]
    for name, schema in SCHEMAS.items():
        for item in fields(schema):
            choices = item.metadata.get("choices") or ((False, True) if item.type in (bool, "bool") else ())
            if item.name in ("_target_", "name") or not choices:
                continue
            tried = {getattr(config.arch, item.name) for config in configs if hasattr(config.arch, item.name)}
            assert tried >= set(choices), (name, item.name)
    assert {config.precision for config in configs} == {"fp32", "bf16"}
    assert {config.optim.name for config in configs} == {"adamw", "adafactor"}
    assert {config.recompute for config in configs} == {False, True}

"""Everything that a run does works on a CUDA device, with every setting, and the host waits only where it must."""

from collections.abc import Callable
from dataclasses import fields

import pytest

from memexp.config.arch import ARCHS as SCHEMAS

from .cases import CASES, MANY_WORDS, QUICK, searches_on_the_host
from .work import Walk, on_gpu, walk


@pytest.mark.parametrize("case", [QUICK, *(pytest.param(case, marks=pytest.mark.hard) for case in CASES)], ids=" ".join)
def test_a_run_does_the_same_on_a_gpu(case: tuple[str, ...], there: Callable[..., Walk]) -> None:
    seen = there(walk, *case)
    assert seen.same_form
    assert seen.state_on <= {"cuda:0"}
    for part in (seen.step, seen.score, seen.inspect, seen.generate):
        assert not part.serial
        assert not part.unfused
        assert not part.convolutions
    assert not seen.generate.plans
    if searches_on_the_host(case):
        return
    # adaptive softmax waits for the sizes of its clusters, to embed tokens, to predict them and to recall them
    for_clusters = sum(count for line, count in seen.step.waits.items() if line.endswith("_places: tolist"))
    assert for_clusters <= 3 * on_gpu(*case).accumulate * (MANY_WORDS[0] in case)
    assert seen.step.total_waits == 1 + for_clusters
    assert not seen.step.pageable
    for part in (seen.score, seen.inspect):
        assert {line.split(":")[0] for line in part.waits if "_places" not in line} <= {
            "memexp/eval/score.py",
            "memexp/eval/retrieved.py",
        }


@pytest.mark.hard
def test_every_choice_is_walked_through() -> None:
    """Of every option of an architecture that is a choice or a switch, each value is in some case."""
    configs = [on_gpu(*case) for case in (QUICK, *CASES)]
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

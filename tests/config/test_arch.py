"""What schemas of architectures say, against what the models do."""

import dataclasses
import re
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch, AttentionArch
from memexp.config.checks import check, remarks
from memexp.config.compose import as_the_size_says, compose, typed
from memexp.config.groups import AttentionAtSize
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.model.build import build_model

from ..messages import says
from ..tiny import configure


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("xl", ["mem=32"]),
        ("knn", ["mem=64"]),
        ("knn", ["mem=32", "arch.neighbours=4"]),
        ("knn_routed", ["mem=48"]),
        ("compressive", ["mem=8", "arch.factor=4", "arch.cache=32"]),
        ("compressive", ["mem=16", "arch.factor=2", "arch.cache=16"]),
        ("block_knn", ["arch.pairs=48", "arch.neighbours=4"]),
    ],
)
def test_tokens_to_fill_are_those_that_a_model_reads_until_it_is_full(arch: str, options: list[str]) -> None:
    config = configure(f"arch={arch}", "segment=16", *options)
    model = build_model(config, vocabulary=30)
    state, read = model.init_state(1), 0
    tokens = torch.zeros(1, 16, dtype=torch.long)
    full = False
    while not full:
        output = model(tokens, tokens == 0, state, torch.tensor([read == 0]))
        state, read = output.state, read + 16
        fills = [value for name, value in output.gauges.items() if name.startswith("memory_fill")]
        # a gauge says what was there to be read; without one the cache is the memory
        full = bool(fills[0] == 1) if fills else int(state.cache.count_B) == config.mem
    assert read - 16 * bool(fills) == config.arch.tokens_to_fill(config.mem)


@pytest.mark.parametrize("arch", ["vanilla", "rmt", "block", "thought", "infini", "armt", "delta", "titans"])
def test_what_is_never_empty_takes_no_tokens_to_fill(arch: str) -> None:
    config = configure(f"arch={arch}")
    assert config.arch.tokens_to_fill(config.mem) == 0


def test_a_remark_says_that_documents_are_too_short_to_fill_a_memory() -> None:
    short = configure("arch=knn", "mem=4096", "data.max_document=1024", "eval.max_document=0")
    (line,) = [line.text for line in remarks(short) if "full" in line.text]
    assert "full after 4,096 tokens" in line
    assert "data.max_document cuts documents to 1,024" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["size=small", "mem=0"], "1,367 steps read 699,904 tokens, in parts of at most 4,096 tokens; then the first 8,192 tokens of up to 8 test"),
        (["size=small", "mem=65536"], "6,144 steps read 3,145,728 tokens, in crops that grow from 4,096 tokens to 65,536; then the first 65,536"),
        (["size=200m", "mem=65536", "steps=1", "eval.documents=0"], "1 step reads 131,072 tokens, in whole documents; then the first 8,192 tokens of all"),
    ],
)  # fmt: skip
def test_a_remark_says_how_much_is_read(words: list[str], said: str) -> None:
    (line,) = [line for line in remarks(typed(compose("train", ["arch=knn", *words]))) if "tokens, in" in line.text]
    assert line.text.startswith(said)
    assert not line.warns


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (
            ["arch=knn", "data.grow_from=64", "data.cut=chunks", "data.max_document=128"],
            "data.cut is chunks, so nothing is cropped",
        ),
        (["arch=knn", "data.grow_from=64", "task=classify"], "task=classify reads the start"),
        (["data.grow_from=128", "data.max_document=128"], "expected less than data.max_document, or 0"),
        (["data.grow_from=129", "data.max_document=128"], "data.max_document=128 tokens, so nothing would grow"),
        (["arch=knn", "data.grow_from=30", "segment=8", "data.drop_tails=true"], "expected a multiple of segment=8"),
        (["arch=knn", "arch.name=mine"], "arch.name is 'mine'; expected knn or knn_routed"),
        (["arch=xl", "arch.name=knn"], "arch.name is 'knn'; expected xl,"),
        (["arch=xl", "arch._target_=memexp.model.knn.Knn"], "arch._target_ is 'memexp.model.knn.Knn'; expected one of"),
        (["arch=xl", "size.attention.position=foo"], "is 'foo'; expected one of t5"),
    ],
)
def test_an_architecture_keeps_its_name_and_class(words: list[str], seen: str) -> None:
    with pytest.raises(UserError, check=says(seen)):
        typed(compose("train", ["size=tiny", "data=tiny", *words]))


@pytest.mark.parametrize(
    ("mem", "longest", "first"),
    [(65536, None, 4096), (65536, 0, 4096), (65536, 8192, 4096), (65536, 4096, 0), (65536, 64, 0), (4096, None, 0), (4096, 8192, 0)],
)  # fmt: skip
def test_crops_grow_only_where_they_can(mem: int, longest: int | None, first: int) -> None:
    cut = [] if longest is None else [f"data.max_document={longest}"]
    settings = typed(compose("train", ["size=small", "arch=knn", f"mem={mem}", *cut]))
    assert settings.data.grow_from == first


def test_a_remark_says_that_normalised_attention_is_not_transformer_xls() -> None:
    def warnings(*settings: str) -> list[str]:
        return [
            line.text for line in remarks(configure("arch=xl", *settings)) if "Transformer-XL's attention" in line.text
        ]

    (line,) = warnings("arch.position=xl")
    assert "arch.normalise=false" in line
    assert not warnings("arch.position=xl", "arch.normalise=false", "arch.scale=1")
    assert not warnings("arch.position=t5")


def test_who_sees_a_cache_is_asked_only_where_there_is_one() -> None:
    for name in ("none", "both"):
        with pytest.raises(UserError, check=says(f"arch.memory_sees_cache is {name}", "arch.cache is 0")):
            check(configure("arch=rmt", f"arch.memory_sees_cache={name}"))
        check(configure("arch=rmt_xl", f"arch.memory_sees_cache={name}"))


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("arch=infini mem=2", "mem is 2, but the memory of arch=infini has a fixed size; expected mem=1"),
        ("arch=infini mem=0 arch.write=linear", "arch.write is linear but mem is 0"),
        ("arch=infini mem=0 bptt_segments=1", "bptt_segments is 1 but mem is 0"),
        ("arch=armt arch.memory=parallel arch.key_size=8", "arch.key_size is 8 but arch.memory is parallel"),
        ("arch=armt mem=0 arch.memory=parallel", "arch.memory is parallel but mem is 0"),
        ("arch=armt arch.key_size=0", "arch.key_size is 0"),
        ("arch=delta arch.unit_keys=false", "arch.unit_keys is false but arch.write is delta"),
        ("arch=delta arch.window=0 mem=0", "arch.window is 0 but 2 of 2 layers have attention"),
        ("arch=delta arch.window=0 arch.recurrent_layers=[2]", "arch.window is 0 but 1 of 2 layers have attention"),
        ("arch=delta arch.recurrent_layers=[2,1]", "arch.window is 16 but all 2 layers are recurrent"),
        ("arch=delta arch.recurrent_layers=[3]", "arch.recurrent_layers is [3]; expected different layers from 1 to 2"),
        ("arch=delta mem=0 arch.decay=none", "arch.decay is none but mem is 0"),
        ("arch=titans segment=24 arch.chunk=16", "segment is 24 and arch.chunk 16"),
        ("arch=titans arch.role=layer", "arch.window is 16 but arch.role is layer"),
        ("arch=titans arch.role=context", "arch.window is 16 but arch.role is context"),
        ("arch=titans arch.role=layer arch.window=0 arch.persistent=2", "arch.persistent is 2 but arch.role is layer"),
        ("arch=titans arch.window=0", "arch.window is 0 but arch.role is gate"),
        ("arch=titans arch.memory=linear arch.expansion=2", "arch.expansion is 2 but arch.memory is linear"),
        ("arch=titans mem=1", "mem is 1 but arch.memory is mlp"),
        ("arch=titans mem=0 arch.clip=1", "arch.clip is 1.0 but mem is 0"),
        ("arch=titans mem=0 arch.momentum=false", "arch.momentum is false but mem is 0"),
        ("arch=rmt mem=0 arch.past_memories=2", "arch.past_memories is 2 but mem is 0"),
        ("arch=rmt arch.past_memories=-1", "arch.past_memories is -1"),
        ("arch=knn arch.negatives=2 lanes=2", "arch.negatives is 2 but lanes is 2"),
        (
            "arch=knn arch.negatives=1 bptt_segments=1 accumulate=2",
            "arch.combine is gate but arch.negatives is 1",
        ),
        (
            "arch=knn_routed arch.negatives=1 arch.combine=joint bptt_segments=1 accumulate=2",
            "arch.search is routed but arch.negatives is 1",
        ),
        ("arch=knn arch.negatives=1 arch.combine=joint lanes=2", "but bptt_segments is 0"),
        ("arch=knn arch.negatives=1 mem=0 arch.combine=joint", "arch.negatives is 1 but mem is 0"),
        ("arch=knn bptt_segments=1 accumulate=2", "no gradient crosses a segment border"),
    ],
)
def test_options_of_memories_that_make_no_sense_together_are_refused(words: str, seen: str) -> None:
    with pytest.raises(UserError, check=says(seen)):
        configure(*words.split())


def test_a_size_sets_attention_where_there_is_attention() -> None:
    options = {item.name for item in dataclasses.fields(AttentionAtSize)}
    plain, attending = as_the_size_says(Arch), as_the_size_says(AttentionArch)
    assert not options & set(plain)
    raw = OmegaConf.to_container(attending, resolve=False)
    assert {name: raw[name] for name in options} == {name: f"${{size.attention.{name}}}" for name in options}


def test_a_size_and_a_schema_agree_on_the_papers_attention() -> None:
    at_size = {item.name: item.default for item in dataclasses.fields(AttentionAtSize)}
    for schema in (each for each in ARCHS.values() if issubclass(each, AttentionArch)):
        own = {item.name: item.default for item in dataclasses.fields(schema)}
        assert {name: own[name] for name in at_size} == at_size


@pytest.mark.parametrize(
    ("segment", "chunk"),
    [(1, 1), (7, 7), (15, 15), (16, 16), (20, 10), (64, 16), (97, 1), (100, 10), (512, 16), (516, 12)],
)
def test_a_segment_of_titans_has_whole_chunks_by_default(segment: int, chunk: int) -> None:
    config = configure("arch=titans", f"segment={segment}")
    assert (config.arch.chunk, config.arch.window) == (chunk, segment)  # type: ignore[attr-defined]


SUGGESTED = re.compile(r"\b((?:arch\.)?[a-z_]+)=([\w.\[\]-]+)|larger (arch\.\w+|mem)\b")


def refusal(config: TrainConfig) -> str:
    try:
        config.arch.check(config)
        config.arch.check_training(config)
    except UserError as error:
        return str(error)
    return ""


def suggested(config: TrainConfig, message: str) -> dict[str, TrainConfig]:
    """By the setting that a refusal tells to change the settings with the new value."""
    found = {}
    for match in SUGGESTED.finditer(message.partition("; expected")[2]):
        name = match[1] or match[3]
        of = config.arch if name.startswith("arch.") else config
        if hasattr(of, name.removeprefix("arch.")):
            larger = 64 if name != "mem" else config.arch.most_mem or 64
            changed = {name.removeprefix("arch."): yaml.safe_load(match[2]) if match[2] else larger}
            found[name] = replace(config, **changed) if of is config else replace(config, arch=replace(of, **changed))
    return found


def leads_out(config: TrainConfig, changed: frozenset[str]) -> bool:
    """Whether what refusals tell to change ends in what is not refused, without the same setting twice."""
    if not (ways := suggested(config, refusal(config))):
        return True  # nothing is refused, or no value is told
    return any(name not in changed and leads_out(way, changed | {name}) for name, way in ways.items())


def others(config: TrainConfig) -> list[dict[str, Any]]:
    """Each option of an architecture with another value."""
    values: list[dict[str, Any]] = []
    for item in dataclasses.fields(config.arch):
        own, least = getattr(config.arch, item.name), item.metadata.get("low") or 0
        if choices := item.metadata.get("choices"):
            tried: list[Any] = list(choices)
        else:
            tried = {bool: [not own], int: [max(0, least), 1, 64], list: [[1], [1, 2]]}.get(type(own), [])
        values += [{item.name: value} for value in tried if value != own]
    return values


@pytest.mark.hard
@pytest.mark.parametrize("name", ARCHS)
def test_a_refusal_does_not_lead_to_another_of_the_same_setting(name: str) -> None:
    base = configure(f"arch={name}")
    seen = set()
    for outer in ({}, {"mem": 0, "bptt_segments": 0}):
        for one, other in combinations_with_replacement(others(base), 2):
            config = replace(base, **outer, arch=replace(base.arch, **one | other))
            message = refusal(config)
            for setting, way in suggested(config, message).items():
                seen.add(setting)
                assert not refusal(way).startswith(f"{setting} is "), (message, refusal(way))
                assert leads_out(way, frozenset({setting})), (message, refusal(way))
    assert seen or not base.arch.mem_unit

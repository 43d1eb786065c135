"""The arithmetic of a plan against what PyTorch counts, and what follows from devices and optimizers."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memexp.cli.commands.plan import in_jobs, page
from memexp.cli.main import main
from memexp.config.commands import PlanConfig
from memexp.cost import memory as plan
from memexp.cost.fitting import fits
from memexp.cost.table import HARDWARE, cost, on_device, operations, operations_by_precision
from memexp.device import Description
from memexp.errors import UserError
from memexp.model.build import build_model
from memexp.model.knn_memory import accelerator_search, scores_fused, scores_plain
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.selection import STRIDE
from memexp.model.transformer.position import build_position, in_order
from memexp.model.watching import watching
from memexp.train.optimizer import build_optimizer
from memexp.wording import duration

from ..messages import says
from ..tiny import configure


@pytest.mark.parametrize(
    ("arch", "attends", "within"),
    [
        (["arch=vanilla"], 64, 0.01),
        (["arch=rmt", "mem=20"], 104, 0.05),
        (["arch=rmt", "mem=20", "arch.adapters=true"], 104, 0.05),
    ],
)
def test_operations_are_those_that_pytorch_counts(arch: list[str], attends: int, within: float) -> None:
    """Which counts all of the square of attention, of whose upper half nothing is used."""
    words = [*arch, "segment=64", "size.width=64", "size.heads=4", "data.tokenizer.vocabulary=1024"]
    config = configure(*words)
    with torch.device("meta"):
        model = build_model(config, vocabulary=1024)
        tokens = torch.zeros(1, 64, dtype=torch.long)
        with watching(False), FlopCounterMode(display=False) as counter:
            output = model(tokens, tokens >= 0, model.init_state(1), tokens[:, 0] > 0)
            model.head.nats(output.hidden_BTD, tokens).mean().backward()
    upper = 2 * 3 * 2 * config.size.layers * 4 * config.size.head_size * (attends - (attends + 1) / 2) * attends / 64
    upper *= 1 + getattr(config.arch, "adapters", False)  # the text and the memory have a softmax each
    assert operations(config) == pytest.approx(counter.get_total_flops() / 64 - upper, rel=within)
    head = 2 * 3 * 1024 * 64
    again = operations(configure(*words, "recompute=true")) - operations(config)
    assert again == pytest.approx((operations(config) - head) / 3)  # forward once more


@pytest.mark.parametrize("options", [[], ["arch.decay=channel"], ["arch.write=add", "arch.decay=none"]], ids=str)
def test_operations_of_recurrent_layers_are_those_that_pytorch_counts(options: list[str]) -> None:
    """Forward, without attention, which it does not count on a CPU; nor does it count what is solved, nor short convolutions."""
    words = ["arch=delta", "arch.window=0", "mem=12", "segment=128", "size.width=64", "size.heads=4", *options]
    config = configure(*words, "data.tokenizer.vocabulary=1024")
    model = build_model(config, vocabulary=1024)
    tokens = torch.zeros(1, 128, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, tokens >= 0, model.init_state(1), tokens[:, 0] > 0)
    chunk = 16 if "arch.decay=channel" in options else 64
    solved = 0 if "arch.write=add" in options else 2 * 4 * chunk / 2 * (12 + 24)
    convolved = 4 * 2 * (12 + 12 + 24) * 4
    layers = operations(config) / 3 - 2 * 1024 * 64
    assert layers - 2 * (solved + convolved) == pytest.approx(counter.get_total_flops() / 128, rel=0.01)


@pytest.mark.hard
@pytest.mark.parametrize(
    "options",
    [
        ["arch.window=64"],
        ["arch.role=layer", "arch.window=0"],
        ["arch.role=context", "arch.window=0", "arch.persistent=8"],
    ],
    ids=str,
)
def test_operations_of_networks_that_learn_are_those_that_pytorch_counts(options: list[str]) -> None:
    """Forward, without what it does not count on a CPU: attention, also to persistent tokens, convolutions, and sums."""
    words = ["arch=titans", "mem=12", "segment=64", "size.width=64", "size.heads=4", "arch.chunk=16", *options]
    config = configure(*words, "data.tokenizer.vocabulary=1024")
    model = build_model(config, vocabulary=1024).requires_grad_(False)
    tokens = torch.zeros(1, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens, tokens >= 0, model.init_state(1), tokens[:, 0] > 0)
    attended = 2 * model.attention_layers * 4 * config.size.head_size * model.attended
    uncounted = ("persistent", "convolution", "norm", "bias", "scale_H", "rates_RH")
    others = sum(value.numel() for name, value in model.named_parameters() if any(part in name for part in uncounted))
    layers = operations(config) / 3 - 2 * 1024 * 64
    assert layers - 2 * (attended + others) == pytest.approx(counter.get_total_flops() / 64, rel=0.002)


def test_compressed_pairs_are_attended_to() -> None:
    small, large = (operations(configure("arch=compressive", "arch.cache=32", f"mem={mem}")) for mem in (48, 148))
    assert large - small == pytest.approx(2 * 3 * 2 * 2 * 2 * 16 * 100)


def test_what_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "memory_bytes", lambda: 16 * 10**9)
    for words in (
        ["arch=knn", "mem=10737418240"],
        ["arch=xl", "mem=10737418240"],
        ["arch=block", "mem=1073741824"],
        ["arch=knn", "lanes=10000000"],
    ):
        with pytest.raises(UserError, check=says("GB before it reads a token", "expected", "16.0 GB")):
            plan.refuse_what_cannot_fit(configure(*words), vocabulary=256)
    plan.refuse_what_cannot_fit(configure("arch=knn", "mem=65536"), vocabulary=256)


def test_on_a_gpu_each_memory_is_compared_with_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of 69 GB, and a GPU and a host of different sizes."""

    def refused(gpu: int, host: int, *words: str) -> str:
        monkeypatch.setattr(plan, "describe", lambda *_, **__: Description("a GPU", gpu * 10**9))
        monkeypatch.setattr(plan, "memory_bytes", lambda: host * 10**9)
        try:
            plan.refuse_what_cannot_fit(configure("arch=knn", "mem=33554432", *words), vocabulary=256)
        except UserError as error:
            return str(error)
        return ""

    monkeypatch.setattr(plan, "pick_device", lambda name: torch.device("cuda"))
    assert not refused(140, 10)
    assert says("16.0 GB, the memory of this device")(refused(16, 140))
    assert not refused(16, 140, "arch.stored_on=host")
    assert says("beside the GPU", "10.0 GB, the memory of this machine")(refused(140, 10, "arch.stored_on=host"))


def test_a_routed_search_scores_the_slots_once_a_segment() -> None:
    small, large = (operations(configure("arch=knn_routed", "segment=16", f"mem={mem}")) for mem in (64, 1664))
    assert large - small == pytest.approx(2 * 2 * 16 * 1600 / 16)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_search_is_counted_as_it_is_done(stored: torch.dtype) -> None:
    """The maxima and members that a search makes, with the groups of the kernels."""
    made: dict[str, Any] = {}

    class Spy:
        APART, moved, held = scores_fused.APART, staticmethod(scores_fused.moved), staticmethod(scores_fused.held)

        @staticmethod
        def factors(queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (queries,)

        @staticmethod
        def maxima(*arguments: Any) -> scores_plain.Maxima:
            maxima = torch.rand(1, arguments[2].number, arguments[0][0].shape[1])
            runs, places = maxima.unflatten(1, (-1, STRIDE)).amax(2), torch.zeros_like(maxima, dtype=torch.uint8)
            made["maxima"] = scores_plain.Maxima(maxima, runs, maxima.clone(), places)
            return made["maxima"]  # type: ignore[no-any-return]

        @staticmethod
        def best(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            made["groups"] = arguments[2]
            made["best"] = scores_plain.best(*arguments)
            return made["best"]  # type: ignore[no-any-return]

    length, capacity, k, size = 32, 8192, 8, 16
    keys = torch.zeros(1, 1, capacity, size, dtype=stored)
    full = torch.tensor([capacity])
    accelerator_search.by_scores(Spy, torch.rand(1, 1, length, size), Ring(keys, keys, full, full, capacity), k)
    found = accelerator_search.work_of(keys, k, length)
    others = k * (k - 1) / 2 / made["groups"].number * (made["groups"].size - 1)  # in groups with two of the best
    assert found.in_fp32 == pytest.approx((k + others) * size)
    assert found.in_half == capacity * size * (3 if stored == torch.float32 else 2)
    of_groups = sum(each.nbytes for each in made["maxima"]) + 2 * made["maxima"].runs_NUT.nbytes
    of_pairs = (k + others) * size * keys.element_size() + k * 17  # places of groups and what is known of them
    assert found.moved == pytest.approx(
        (keys.nbytes + of_groups + 2 * sum(each.nbytes for each in made["best"])) / length + of_pairs
    )


def test_a_cache_is_attended_to_and_slots_are_scored() -> None:
    inner, layers = 2 * 16, 2
    plain, cache = operations(configure("arch=vanilla")), operations(configure("arch=xl", "mem=160"))
    assert cache - plain == pytest.approx(2 * 3 * 2 * layers * inner * 160, rel=0.01)
    small, large = (operations_by_precision(configure("arch=knn", f"mem={mem}")).in_half for mem in (64, 1064))
    assert large - small == 2 * 3 * inner * 1000  # each score is the sum of three products in fp16


def test_a_token_attends_to_itself_and_to_a_window() -> None:
    """As many keys in block recurrence, and in a cache of which a token sees only the nearest."""
    inner, layers = 2 * 16, 2
    whole, near = (operations(configure("arch=xl", "mem=16", f"arch.reach={reach}")) for reach in ("all", "window"))
    assert whole - near == pytest.approx(2 * 3 * 2 * layers * inner * (17 / 2 + 16 - 17))
    slide = operations(configure("arch=block", "mem=0", "arch.window=16", "segment=16"))
    assert slide == pytest.approx(near)


def test_devices_share_lanes_and_nothing_else() -> None:
    config = configure("arch=knn", "lanes=64", "mem=4096")
    one, four = (cost(config, HARDWARE["a100"], devices=devices, utilisation=0.5) for devices in (1, 4))
    assert four.seconds == pytest.approx(one.seconds / 4)
    assert four.parameters == one.parameters
    assert one.tokens == four.tokens == config.steps * 64 * 16
    counted = operations_by_precision(config)
    assert one.operations_a_token == sum(counted[:3])
    search = counted.in_fp32 / 19.5e12 + counted.in_half / 312e12 + counted.moved / 2.039e12
    assert one.seconds == pytest.approx(one.tokens * (counted.in_precision / 19.5e12 + search) / 0.5)  # it is in fp32
    half = cost(
        configure("arch=knn", "lanes=64", "mem=4096", "precision=bf16"), HARDWARE["a100"], devices=1, utilisation=0.5
    )
    assert half.seconds == pytest.approx(one.tokens * (counted.in_precision / 312e12 + search) / 0.5)
    rounded = cost(dataclasses.replace(config, tf32=True), HARDWARE["a100"], devices=1, utilisation=0.5)
    assert rounded.seconds == pytest.approx(one.tokens * (counted.in_precision / 156e12 + search) / 0.5)
    assert counted.in_half == 2 * 3 * 2 * 16 * (4096 + 16)  # a ring has room for a segment beside its slots
    shared = one.device_bytes - four.device_bytes
    assert 0 < shared < one.device_bytes
    assert four.device_bytes > 4 * four.parameters
    assert four.one_device_bytes == one.one_device_bytes == one.device_bytes


def test_devices_may_share_weights() -> None:
    """A step holds four numbers in fp32 for each parameter, of which sharing leaves a fourth; it sends each matrix several times."""
    words = ["arch=vanilla", "lanes=4", "segment=8", "accumulate=2", "size.width=512", "size.feedforward=2048"]
    whole, shared = (
        cost(configure(*words, f"shard_weights={shared}"), HARDWARE["a100"], devices=4, utilisation=0.5)
        for shared in ("false", "true")
    )
    assert whole.sent == 2 * 4 * whole.parameters * 3 // 4
    words_and_norms = whole.parameters - 2 * (512 * 4 * 32 + 2 * 512 * 2048)
    matrices = shared.parameters - words_and_norms
    assert shared.sent == pytest.approx((24 * matrices + 16 * words_and_norms) * 3 / 4, rel=1e-3)
    saved = whole.device_bytes - shared.device_bytes
    assert 0.5 < saved / (16 * whole.parameters * 3 / 4) < 1
    assert shared.one_device_bytes == whole.one_device_bytes


def test_more_devices_than_lanes_are_of_no_use() -> None:
    config = configure("arch=knn", "lanes=6", "mem=4096")
    hours = [cost(config, HARDWARE["a100"], devices=devices, utilisation=0.5).seconds for devices in (1, 4, 6, 512)]
    assert [hours[0] / each for each in hours] == pytest.approx([1, 3, 6, 6])


@pytest.mark.parametrize(
    ("position", "cache", "each"), [("t5", 0, 4), ("t5", 48, 4), ("rotary", 48, 2), ("rotary", 0, 0)]
)
def test_what_is_added_to_scores_is_kept(position: str, cache: int, each: int) -> None:
    """In two bytes for each head, or in two for all heads where only what is in sight has to be told; nothing where the
    kernel's causal order tells it. A mask of one byte for each pair is made once for all layers."""
    words = ["arch=xl", f"mem={cache}"] if cache else ["arch=vanilla"]
    config = configure(*words, "segment=16", "lanes=3", "precision=bf16", f"arch.position={position}")
    [found] = [item for item in plan.items(config, vocabulary=256) if item.what.startswith("bias")]
    assert found.bytes == 3 * 16 * (16 + cache) * (each * config.size.layers + (each > 0))


def test_adaptive_softmax_costs_what_its_words_do() -> None:
    """Words that are as frequent as Zipf's law says, counted by PyTorch over many tokens of one segment."""
    config = configure(
        "arch=vanilla",
        "size.cutoffs=[20,80]",
        "size.narrowing=2",
        "data.tokenizer.kind=lines",
        "data.tokenizer.vocabulary=400",
    )
    torch.manual_seed(0)
    model = build_model(config, vocabulary=400)
    words = torch.multinomial(1 / torch.arange(1.0, 401), 20_000, replacement=True)[None]
    with FlopCounterMode(display=False) as counter:
        model.head.nats(torch.randn(1, 20_000, config.size.width), words)
    assert model.head.multiplications == pytest.approx(counter.get_total_flops() / 2 / 20_000, rel=0.02)
    plain = operations(configure("arch=vanilla", "data.tokenizer.vocabulary=400"))
    assert operations(config) - 6 * model.head.multiplications == pytest.approx(plain - 6 * 400 * config.size.width)


def test_adafactor_keeps_less_than_adamw() -> None:
    adamw, adafactor = (
        cost(configure("arch=vanilla", *words), HARDWARE["h100"], devices=1, utilisation=1)
        for words in (["optim=adamw"], ["optim=adafactor", "optim.momentum=0", "optim.factor_from=1"])
    )
    assert 4 * adamw.parameters < adamw.device_bytes - adafactor.device_bytes < 8 * adamw.parameters


@pytest.mark.parametrize("factor_from", [1, 40, 128])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("arch", ["vanilla", "compressive"])  # the latter has parameters with three sides
def test_the_state_of_adafactor_is_what_it_keeps(arch: str, momentum: float, factor_from: int) -> None:
    config = configure(
        f"arch={arch}", "optim=adafactor", f"optim.momentum={momentum}", f"optim.factor_from={factor_from}"
    )
    [item] = [item for item in plan.items(config, vocabulary=256) if item.what == "optimizer"]
    model = build_model(config, vocabulary=256)
    optimizer = build_optimizer(model, config.optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert item.bytes == sum(value.nbytes for value in kept)


def test_jobs_share_out_the_runs_longest_first() -> None:
    assert in_jobs([3.0, 1.0, 2.0], 1) == 6
    assert in_jobs([1.0, 2.0, 3.0, 2.0], 2) == 4
    assert in_jobs([5.0, 1.0], 8) == 5


def test_a_device_is_not_filled_to_its_last_byte() -> None:
    """As in the table of what fits into a device."""
    hardware = HARDWARE["h100"]._replace(memory=100.0)
    one = cost(configure("arch=vanilla"), hardware, devices=1, utilisation=1)
    given: dict[str, Any] = {"devices": 1, "jobs": 1, "shared": False, "utilisation": 1, "precisions": ["fp32"]}
    grid = page(
        "",
        [("fits", one._replace(device_bytes=90)), ("is too large", one._replace(device_bytes=91))],
        hardware,
        **given,
    )
    assert [line[6] for line in grid.lines] == ["yes", "no"]
    assert fits(configure("arch=vanilla"), memory=on_device(configure("arch=vanilla")) / 0.9)
    assert not fits(configure("arch=vanilla"), memory=on_device(configure("arch=vanilla")) / 0.91)


def test_devices_that_cannot_share_the_lanes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """As by training."""
    assert main(["plan", "memorizing/table4", "devices=3"]) == 2
    assert says("expected a multiple of 3 lanes")(capsys.readouterr().err)


@pytest.mark.hard
def test_the_command_names_its_assumptions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", "rmt/equations", "hardware=tpu-v4", "devices=16"]) == 0
    out = capsys.readouterr().out
    flat = " ".join(out.split())
    assert "16 x TPU v4 chip" in flat
    assert "Assumed: 40 % of the rates" in flat
    assert "45.8 TFLOP/s in fp32" in flat
    assert "16 devices share the lanes of a run, a process each" in flat
    assert "does not run on a TPU v4 chip" in flat
    rows = [line.split() for line in out.splitlines() if " yes " in line]
    assert [row[0] for row in rows] == ["Baseline", "Transformer-XL", "RMT"]
    assert all(row[-1] in ("s", "min", "h") for row in rows)
    assert main(["plan", "rmt/algorithmic"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if " yes " in line]
    assert len(rows) == 9
    assert {line.split(",")[0].strip() for line in rows} == {"24", "12", "8"}
    assert main(["plan", "rmt/equations", "devices=16", "shard_weights=true"]) == 0
    shared = capsys.readouterr().out
    assert says("holds its part of the weights", "GB sent: in a step")(" ".join(shared.split()))
    assert "GB sent: in a step" in flat
    assert main(["plan", "rmt/equation"]) == 2
    assert says("rmt/equation", "did you mean rmt/equations?")(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
def test_positions_that_are_a_bias_are_known(name: str) -> None:
    queries, keys = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    position = build_position(name, width=16, heads=2, head_size=8)
    assert (position(queries, keys, in_order(4, 4, torch.device("cpu"))).bias is not None) == position.adds


@pytest.mark.parametrize("hardware", HARDWARE)
def test_all_hardware_is_offered_and_has_its_rates(hardware: str) -> None:
    known = HARDWARE[hardware]
    assert hardware in PlanConfig.__dataclass_fields__["hardware"].metadata["choices"]
    assert set(PlanConfig.__dataclass_fields__["hardware"].metadata["choices"]) == set(HARDWARE)
    assert 1 < known.bf16 / known.fp32 < 40  # bf16 is never as slow as fp32
    assert known.fp32 <= known.tf32 < known.bf16
    assert 8e9 < known.memory < 300e9
    assert 5 < known.memory / known.bandwidth * 1e3 < 60  # milliseconds to read all of it
    assert PlanConfig.__dataclass_fields__["devices"].default == 1  # on as many a run trains


def test_a_memory_on_the_host_needs_no_room_on_the_device() -> None:
    device, host = (
        cost(configure("arch=knn", "mem=65536", f"arch.stored_on={where}"), HARDWARE["h200"], devices=1, utilisation=1)
        for where in ("device", "host")
    )
    assert device.one_device_bytes > host.one_device_bytes


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (1e-6, "under 0.1 s"), (0.1, "0.1 s"), (9.94, "9.9 s"), (12.3, "12 s"), (59.8, "1.0 min"), (90, "1.5 min"), (3599, "1.0 h"),
        (12_000, "3.3 h"), (86_400, "24 h"), (4e6, "1,111 h"),
    ],
)  # fmt: skip
def test_a_time_is_never_zero_hours(seconds: float, words: str) -> None:
    assert duration(seconds) == words

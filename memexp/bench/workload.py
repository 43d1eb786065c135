"""What is measured: the shape of the network, the text that it reads, and its training steps."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.bench.others.plain_decoder import PlainDecoder
from memexp.config.arch.base import Arch, AttentionArch
from memexp.config.arch.knn_memory import KnnArch
from memexp.config.arch.slot_memory import BlockArch, RmtArch
from memexp.config.arch.transformer import VanillaArch, XlArch
from memexp.config.groups import Optim, Size
from memexp.config.train import TrainConfig
from memexp.model.build import build_model
from memexp.model.knn_memory.ring import Ring
from memexp.model.state import State, detach
from memexp.model.transformer.attention import Cache
from memexp.model.watching import watching
from memexp.train.optimizer import build_optimizer

OPTIM = Optim(name="adamw", rate=1e-3, betas=[0.9, 0.98], weight_decay=0.01)


@dataclass(frozen=True)
class Work:
    """The sizes of the network and the batch, without the memory; everything is fp32 on the CPU."""

    vocabulary: int = 256
    layers: int = 6
    width: int = 256
    heads: int = 4
    head_size: int = 64
    feedforward: int = 1024
    segment: int = 512
    lanes: int = 4
    neighbours: int = 32

    def describe(self) -> str:
        """The sizes in one line."""
        return (
            f"width {self.width}, {self.layers} layers, {self.heads} heads of {self.head_size}, feed-forward "
            f"{self.feedforward}, vocabulary {self.vocabulary}, {self.lanes} lanes of {self.segment} tokens, "
            f"{self.neighbours} neighbours, fp32"
        )


def vanilla(position: str) -> AttentionArch:
    """Options of a transformer without memory."""
    return VanillaArch(_target_="memexp.model.vanilla.Vanilla", name="vanilla", position=position)


def xl(position: str) -> Arch:
    """Options of Transformer-XL."""
    return XlArch(_target_="memexp.model.xl.Xl", name="xl", position=position)


def knn(work: Work) -> AttentionArch:
    """Options of kNN memory, with a cache of one segment."""
    return KnnArch(
        _target_="memexp.model.knn.Knn",
        name="knn",
        cache=work.segment,
        neighbours=work.neighbours,
    )


def block(work: Work) -> Arch:
    """Options of block recurrence with a window of one segment, in the layer that the paper uses."""
    return BlockArch(_target_="memexp.model.block.Block", name="block", window=work.segment, position="rotary")


def rmt() -> Arch:
    """Options of memory tokens without a cache."""
    return RmtArch(_target_="memexp.model.rmt.Rmt", name="rmt", position="rotary")


def random_text(work: Work) -> Tensor:
    """One segment per lane and its next token, B T+1."""
    return torch.randint(work.vocabulary, (work.lanes, work.segment + 1))


def our_step(arch: Arch, *, mem: int, work: Work) -> Callable[[], None]:
    """A training step of one of our architectures: forward, backward and AdamW. Its memory is full from the start."""
    return step_of(settings_of(arch, mem=mem, work=work), work)


def settings_of(arch: Arch, *, mem: int, work: Work) -> TrainConfig:
    """The settings of a run of this size."""
    size = {name: value for name, value in asdict(work).items() if name in Size.__dataclass_fields__}
    return TrainConfig(
        arch=arch, size=Size(name="bench", **size), mem=mem, segment=work.segment, lanes=work.lanes, optim=OPTIM
    )


def step_of(config: TrainConfig, work: Work) -> Callable[[], None]:
    """A training step of the model of these settings that is not logged: forward, backward and AdamW. Its memory is full."""
    torch.manual_seed(0)
    model = build_model(config, vocabulary=work.vocabulary)
    optimizer = build_optimizer(model, OPTIM)
    text = random_text(work)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    valid, reset = torch.ones_like(tokens, dtype=torch.bool), torch.zeros(work.lanes, dtype=torch.bool)
    state = filled(model.init_state(work.lanes))

    def step() -> None:
        nonlocal state
        optimizer.zero_grad(set_to_none=True)
        with watching(False):
            output = model(tokens, valid, state, reset)
        nats = model.head.nats(output.hidden_BTD, targets).mean()
        torch.stack([nats, *output.aux.values()]).sum().backward()
        optimizer.step()
        state = detach(output.state)

    return step


def filled(state: State) -> State:
    """The state itself, after its caches and rings were filled with random pairs; keys have a length of about 1."""
    pairs = []
    for ring in (part for part in state.memory if isinstance(part, Ring)):
        ring.count_B.fill_(ring.slots)
        pairs.append((ring.keys_BHRK, ring.values_BHRK))
    for layer in state.cache.layers if isinstance(state.cache, Cache) else ():
        state.cache.count_B.fill_(layer.keys_BGCK.shape[2])
        pairs.append((layer.keys_BGCK, layer.values_BGCK))
    for keys, values in pairs:
        keys.normal_(std=keys.shape[-1] ** -0.5)
        values.normal_()
    return state


def our_reading(arch: Arch, *, mem: int, work: Work) -> Callable[[], None]:
    """A step of evaluation of one of our architectures, on one segment per lane."""
    model = build_model(settings_of(arch, mem=mem, work=work), vocabulary=work.vocabulary).eval()
    text = random_text(work)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    valid, reset = torch.ones_like(tokens, dtype=torch.bool), torch.zeros(work.lanes, dtype=torch.bool)
    state = model.init_state(work.lanes)

    @torch.no_grad()
    def read() -> None:
        nonlocal state
        output = model(tokens, valid, state, reset)
        model.head.nats(output.hidden_BTD, targets)
        state = output.state

    return read


def plain_step(position: str, *, work: Work) -> Callable[[], None]:
    """A training step of the plain decoder: forward, backward and AdamW."""
    torch.manual_seed(0)
    model = PlainDecoder(
        vocabulary=work.vocabulary,
        layers=work.layers,
        width=work.width,
        heads=work.heads,
        head_size=work.head_size,
        feedforward=work.feedforward,
        context=work.segment,
        rotary=position == "rotary",
    )
    betas = (OPTIM.betas[0], OPTIM.betas[1])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=OPTIM.rate, betas=betas, weight_decay=OPTIM.weight_decay, fused=True
    )
    text = random_text(work)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()

    return step

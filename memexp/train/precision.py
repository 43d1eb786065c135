"""The precision of a run: which one pays on a device, and bf16 copies of weights, whose gradients are summed in fp32."""

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memexp.config.train import TrainConfig
from memexp.device import describe
from memexp.model.transformer.numerics import Arithmetic


class HalfWeights:
    """bf16 copies of the weights of all linear layers, for a forward pass under autocast, which then need not cast them.

    Autocast alone would cast every matrix again for each segment, and again when a segment is recomputed. The results are
    bit for bit those of autocast: each segment has its own leaf tensors, so gradients of segments are summed in fp32.
    Embeddings have no copies, because they start the residual stream, which stays in fp32.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {
            f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)
        }
        self._halves = [weight.detach().to(torch.bfloat16) for weight in self._weights.values()]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the current weights."""
        torch._foreach_copy_(self._halves, [weight.detach() for weight in self._weights.values()])

    def leaves(self) -> dict[str, Tensor]:
        """New leaf tensors of the copies for one segment, by weight name; their gradients are added to those of the weights."""
        leaves = {}
        for (name, weight), half in zip(self._weights.items(), self._halves, strict=True):
            leaves[name] = leaf = half.detach().requires_grad_(weight.requires_grad)
            if weight.requires_grad:
                leaf.register_post_accumulate_grad_hook(_AddTo(weight))
        return leaves


class _AddTo:
    """A hook that adds a leaf's gradient to the gradient of the weight that the leaf copies."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, leaf: Tensor) -> None:
        assert leaf.grad is not None
        if self._weight.grad is None:
            self._weight.grad = leaf.grad.to(self._weight.dtype)
        else:
            self._weight.grad.add_(leaf.grad)
        leaf.grad = None


WITH_MATRIX_UNITS = re.compile(r"gfx(908|90a|94\w|95\w|11\w\w|12\w\w)\b")
"""Architectures of AMD that have instructions for products of matrices in bf16: CDNA, and RDNA since its third generation."""


def slow_here(device: torch.device) -> bool:
    """Whether this device is known to have no bf16 instructions; torch before 2.9 cannot tell for a CPU.

    An NVIDIA GPU has them from compute capability 8.0 on (Ampere, 2020), and an AMD GPU if its architecture has units for products
    of matrices; torch imitates them on others.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        if torch.version.hip is None:
            return torch.cuda.get_device_capability(device) < (8, 0)
        architecture = getattr(torch.cuda.get_device_properties(device), "gcnArchName", "")
        return bool(architecture) and not WITH_MATRIX_UNITS.match(architecture)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities) and not any(has for name, has in capabilities.items() if "bf16" in name)


class Choice(NamedTuple):
    """A precision, and why it is chosen."""

    precision: str
    reason: str


def pays_here(device: torch.device) -> Choice:
    """The precision that `precision=auto` means on this device."""
    if device.type != "cuda":
        return Choice("fp32", "the model runs on a CPU")
    if not torch.cuda.is_available():  # a plan for another machine
        return Choice("bf16", "a GPU has instructions for it since compute capability 8.0")
    name = describe(device, asked="cuda").name
    if slow_here(device):
        return Choice("fp32", f"{name} has no instructions for bf16 and would imitate them")
    return Choice("bf16", f"{name} has instructions for it, which take less time than those for fp32")


def has_tf32(device: torch.device) -> bool:
    """Whether the device can round factors in fp32 to TF32: an NVIDIA GPU since compute capability 8.0."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def arithmetic(config: TrainConfig) -> Arithmetic:
    """How the layers of a run multiply."""
    return Arithmetic(bf16=config.precision == "bf16", tf32=config.tf32)

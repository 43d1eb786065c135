"""Which weights of a model with a checkpoint's layers are trained, and low-rank additions to them."""

from typing import Any

from torch import Tensor, nn

from memexp.errors import UserError
from memexp.model.pretrained.layers import ClassHead
from memexp.model.segment import SegmentModel


class LowRank(nn.Module):
    """A projection plus the product of two thin matrices, of which the second starts at 0 (LoRA, Hu et al. 2021, section 4.1).

    *Differs from the paper:* the scale alpha / r is 1, and all projections of attention have an addition.
    """

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        rows, columns = _sides(base)
        self.base = base
        self.down, self.up = nn.Linear(columns, rank, bias=False), nn.Linear(rank, rows, bias=False)
        nn.init.normal_(self.down.weight, std=columns**-0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.base(x) + self.up(self.down(x))
        return added


def _sides(base: Any) -> tuple[int, int]:
    """Outputs and inputs of a projection; the matrices of GPT-2 are transposed."""
    rows, columns = base.weight.shape
    return (rows, columns) if isinstance(base, nn.Linear) else (columns, rows)


def choose_trained(model: SegmentModel, train: str, *, rank: int) -> None:
    """Freeze the weights that training must not change.

    Args:
        train: all: nothing is frozen; memory: what is the checkpoint's, so not the vectors of classes; lora: the same, but its
            projections get additions; none: everything.
        rank: of these additions.

    Raises:
        UserError: nothing would be left to train.
    """
    parts: Any = model
    layers = parts.layers
    if train in ("memory", "lora"):
        parts.head.embedding.requires_grad_(False)
        parts.head.output.requires_grad_(isinstance(parts.head, ClassHead))  # classes are new
        layers.requires_grad_(False)
    elif train == "none":
        model.requires_grad_(False)
    if train == "lora":
        for module in _attentions(layers.base):
            for name, part in list(module.named_children()):
                weight = getattr(part, "weight", None)
                if isinstance(weight, Tensor) and weight.dim() == 2:
                    setattr(module, name, LowRank(part, rank))
    if train != "none" and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"optim.train is {train}, but the memory has no weights, so nothing would be trained; expected optim.train=lora, all or none, or "
            "a memory with weights, such as arch.combine=gate"
        )


def _attentions(base: nn.Module) -> list[nn.Module]:
    return [module for module in base.modules() if hasattr(module, "layer_idx") and hasattr(module, "is_causal")]

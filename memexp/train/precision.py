"""bf16: matrices are cast once a step, and their gradients are summed in the weights' own precision."""

import torch
from torch import Tensor, nn


class HalfWeights:
    """bf16 copies of all projections, for a forward pass under autocast, which then finds nothing to cast in them.

    Autocast itself casts every matrix again for each segment, and once more where a segment is computed again. Results
    are its results bit for bit: each segment has leaves of its own, so what segments add up is added in fp32.
    Embeddings are left to it, for they begin the residual stream, which stays in fp32.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {
            f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)
        }
        self._halves = [weight.detach().to(torch.bfloat16) for weight in self._weights.values()]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the weights are now."""
        torch._foreach_copy_(self._halves, [weight.detach() for weight in self._weights.values()])

    def leaves(self) -> dict[str, Tensor]:
        """The copies by the weights' names, for one segment; a backward pass to them reaches the weights' gradients."""
        leaves = {}
        for (name, weight), half in zip(self._weights.items(), self._halves, strict=True):
            leaves[name] = leaf = half.detach().requires_grad_()
            leaf.register_post_accumulate_grad_hook(_Handing(weight))
        return leaves


class _Handing:
    """Adds a leaf's gradient to that of the weight that it is a copy of."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, leaf: Tensor) -> None:
        assert leaf.grad is not None
        if self._weight.grad is None:
            self._weight.grad = leaf.grad.to(self._weight.dtype)
        else:
            self._weight.grad.add_(leaf.grad)
        leaf.grad = None


def slow_here(device: torch.device) -> bool:
    """Whether bf16 is known to have no instructions on this device; torch before 2.9 cannot say what a CPU has."""
    if device.type != "cpu":
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities) and not any(there for name, there in capabilities.items() if "bf16" in name)

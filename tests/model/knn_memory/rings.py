"""Rings of given keys."""

import torch
from torch import Tensor

from memexp.model.knn_memory.ring import Ring, ages
from memexp.model.knn_memory.selection import Neighbours

KINDS = ("random", "clustered", "tied", "duplicate", "zero")
SHAPES = (
    (37, 37, 37),
    (37, 50, 20),
    (37, 5, 5),
    (2500, 2500, 2500),
    (2500, 4000, 2100),
    (3001, 100, 40),
    (1024, 1024, 1024),
)
"""Slots, position and count: full, wrapped and partly filled rings."""


def ring_of(keys_HMK: Tensor, *, position: int | None = None, count: int | None = None) -> Ring:
    """A ring of one lane with these keys, full unless told."""
    size = keys_HMK.shape[1]
    return Ring(
        keys_HMK[None],
        keys_HMK[None].clone(),
        torch.tensor([size if position is None else position]),
        torch.tensor([size if count is None else count]),
        size,
    )


def keys_of(kind: str, heads: int, size: int, head_size: int = 16) -> Tensor:
    """Keys, H R K, of one of `KINDS`."""
    torch.manual_seed(1)
    match kind:
        case "random":
            keys = torch.randn(heads, size, head_size)
        case "clustered":
            keys = torch.randn(heads, 5, head_size)[:, torch.arange(size) % 5] + 0.01 * torch.randn(
                heads, size, head_size
            )
        case "tied":
            keys = torch.randint(-1, 2, (heads, size, head_size)).float()
        case "duplicate":
            keys = torch.randn(heads, 3, head_size)[:, torch.arange(size) % 3]
        case _:
            keys = torch.zeros(heads, size, head_size)
    return keys


def check(found: Neighbours, queries_BHTK: Tensor, ring: Ring, k: int) -> None:
    """Assert that the scores of what was found are those of brute force in fp64, best first, of different readable slots."""
    void_B11R = (ages(ring) > ring.count_B[:, None])[:, None, None]
    scores = (queries_BHTK.double() @ ring.keys_BHRK.double().mT).masked_fill(void_B11R, float("-inf"))
    take = min(k, ring.keys_BHRK.shape[2])
    expected = scores.topk(take).values
    assert found.slots_BHTk.shape == (*queries_BHTK.shape[:3], k)
    assert found.found_BHTk[..., :take].equal(expected > float("-inf"))
    assert not found.found_BHTk[..., take:].any()
    slots, there = found.slots_BHTk[..., :take], found.found_BHTk[..., :take]
    assert ((slots >= 0) & (slots < ring.keys_BHRK.shape[2])).all()
    different = slots.where(there, -1 - torch.arange(take)).sort(-1).values
    assert (different[..., 1:] > different[..., :-1]).all()
    largest = scores.masked_fill(void_B11R, 0).abs().amax()
    own = scores.gather(-1, slots)
    near = {"rtol": 0, "atol": 1e-6 * max(1.0, largest.item())}
    torch.testing.assert_close(own[there], expected[there], **near)
    assert found.scores_BHTk is not None
    torch.testing.assert_close(found.scores_BHTk[..., :take][there].double(), own[there], **near)

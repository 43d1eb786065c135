"""The memory positions that each scored token attended to, largest attention weight first.

Shapes: B lanes, T tokens of a stride, N neighbours of all layers and heads together, r positions kept.
"""

import numpy as np
import torch
from torch import Tensor

from memexp.model.segment import Retrieval
from memexp.store.folder import RETRIEVED


def strongest(retrieval: Retrieval, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` positions with the largest weight for each token: how many tokens before it, and their weights, both B T r.

    A position that several heads or layers read counts once. Its weight is its attention weight, averaged over all heads of
    all layers.
    """
    heads = retrieval.weights_BTLHk.shape[2] * retrieval.weights_BTLHk.shape[3]
    ages_BTN, order_BTN = retrieval.ages_BTLHk.flatten(2).sort(dim=-1)
    weights_BTN = retrieval.weights_BTLHk.float().flatten(2).gather(-1, order_BTN) / heads
    new_BTN = ages_BTN.diff(dim=-1, prepend=ages_BTN[..., :1]) != 0
    place_BTN = new_BTN.cumsum(-1)  # equal ages are adjacent and share an index
    summed_BTN = torch.zeros_like(weights_BTN).scatter_add(-1, place_BTN, weights_BTN)
    age_BTN = torch.zeros_like(ages_BTN).scatter(-1, place_BTN, ages_BTN)
    weight_BTr, index_BTr = summed_BTN.topk(min(most, summed_BTN.shape[-1]), dim=-1)
    return age_BTN.gather(-1, index_BTr), weight_BTr


def rows_of(age_BTr: np.ndarray, weight_BTr: np.ndarray, most: int) -> np.ndarray:
    """What `strongest` has found as `RETRIEVED`, with `most` positions for each token, padded with zeros at the end."""
    kept = np.zeros((*weight_BTr.shape[:2], most), dtype=RETRIEVED)
    width = weight_BTr.shape[-1]
    kept["distance"][..., :width], kept["weight"][..., :width] = age_BTr, weight_BTr
    kept[kept["weight"] == 0] = 0  # weights that half precision rounds to 0 count as unused
    return kept

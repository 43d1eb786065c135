"""What each scored token's memory retrieved: the places that attention on the memory was on, most attention first.

Shapes: B lanes, T tokens of a stride, N the layers' and heads' neighbours together, r places kept.
"""

import numpy as np
import torch

from memexp.model.segment import Retrieval
from memexp.runs.folder import RETRIEVED


def strongest(found: Retrieval, most: int) -> np.ndarray:
    """The `most` places with the largest weight of each token, B T r of `RETRIEVED`; fewer leave zeros at the end.

    A place that several heads or layers read counts once, with the mean over all heads of all layers of the share of
    attention that is on it.
    """
    heads = found.weights_BTLHk.shape[2] * found.weights_BTLHk.shape[3]
    ages_BTN, order_BTN = found.ages_BTLHk.flatten(2).sort(dim=-1)
    weights_BTN = found.weights_BTLHk.float().flatten(2).gather(-1, order_BTN) / heads
    new_BTN = ages_BTN.diff(dim=-1, prepend=ages_BTN[..., :1]) != 0
    place_BTN = new_BTN.cumsum(-1)  # equal ages stand side by side: the number of each among the different ones
    summed_BTN = torch.zeros_like(weights_BTN).scatter_add(-1, place_BTN, weights_BTN)
    age_BTN = torch.zeros_like(ages_BTN).scatter(-1, place_BTN, ages_BTN)
    weight_BTr, index_BTr = summed_BTN.topk(min(most, summed_BTN.shape[-1]), dim=-1)
    kept = np.zeros((*weight_BTr.shape[:2], most), dtype=RETRIEVED)
    width = weight_BTr.shape[-1]
    kept["distance"][..., :width] = age_BTN.gather(-1, index_BTr).cpu().numpy()
    kept["weight"][..., :width] = weight_BTr.cpu().numpy()
    kept[kept["weight"] == 0] = 0  # what half precision rounds to nothing is nothing
    return kept

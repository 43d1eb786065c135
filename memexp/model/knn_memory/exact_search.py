"""Exact search: the k pairs of a ring whose keys have the largest inner products with each query.

Shapes: B lanes, H heads, T queries, K head size.
"""

import torch
from torch import Tensor

from memexp.model.knn_memory.accelerator_search import by_groups
from memexp.model.knn_memory.cpu_search import by_spans
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.selection import Neighbours
from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.regions import part


@torch.no_grad()
def exact(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours:
    """The best pairs for every query among the readable pairs of the ring; scores use keys as they are stored.

    The search runs on the device of the queries. There the counts of the ring are too; its keys may be in the host's memory.
    """
    with part("search"), full_precision(queries_BHTK.device):
        search = by_spans if queries_BHTK.device.type == "cpu" else by_groups
        return search(at_least_fp32(queries_BHTK), ring, neighbours)

"""Block-Recurrent Transformer with a kNN memory beside: state vectors for the gist, exact pairs for the letter.

Shapes: B lanes, T tokens.
"""

from typing import final

import torch
from torch import Tensor

from memexp.model.block import Block
from memexp.model.knn_memory.layer import PairOptions, build_memories
from memexp.model.segment import Retrieval
from memexp.model.state import State, fork
from memexp.model.transformer.shape import Shape


@final
class BlockKnn(Block):
    """Block recurrence (Hutchins et al. 2022, section 3) in which some layers also read the last `pairs` keys and values.

    Those layers are the memory layers of `arch=knn` (Wu et al. 2022, section 3), except that what they read stands for
    local attention beside the state vectors, and that the rings are written after every window: so losses do not depend
    on how a text is cut into segments here either. `mem` counts the state vectors; with `pairs=0` this is `arch=block`.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        mem: int,
        pairs: int,
        knn_layers: list[int],
        neighbours: int,
        search: str,
        combine: str,
        gate: float,
        write: str,
        stored: str,
        stored_on: str,
        window: int,
        recurrent_layers: list[int],
        gate_kind: str,
        gates: str,
        feedback: bool,
        state_dropout: float,
        cache_dropout: float,
        shared_values: bool,
        position: str,
        normalise: bool,
        scale: float,
        dropout: float,
        key_smear: bool,
        keys_as_queries: bool,
    ) -> None:
        super().__init__(
            shape,
            mem=mem,
            window=window,
            recurrent_layers=recurrent_layers,
            gate_kind=gate_kind,
            gates=gates,
            feedback=feedback,
            state_dropout=state_dropout,
            cache_dropout=cache_dropout,
            shared_values=shared_values,
            position=position,
            normalise=normalise,
            scale=scale,
            dropout=dropout,
            key_smear=key_smear,
            keys_as_queries=keys_as_queries,
        )
        self.memory_slots = mem + pairs
        if pairs:
            options = PairOptions(neighbours, search, combine, gate, write, stored, stored_on)
            self.memories = build_memories(shape, options, layers=knn_layers, slots=pairs, cache=window, stride=window)

    def remarks(self, device: torch.device) -> list[str]:
        """What is to be said of its search."""
        return self.memories.remarks(device)

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves; windows write to a copy of the rings."""
        reads, _ = self._windows(tokens_BT, valid_BT, fork(self.clear(state, reset_B)))
        if not reads[0].pairs.rings:
            return super().inspect(tokens_BT, valid_BT, state, reset_B)
        return Retrieval(
            *(torch.cat(parts, dim=1) for parts in zip(*(read.pairs.retrieval() for read in reads), strict=True))
        )

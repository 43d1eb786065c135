"""A program that trains the model of another package, one step for each line that it reads.

It runs in an environment of its own, in which memexp is not installed. Its arguments are the package's name, the work as
JSON, and the threads. It answers each line with the seconds of a step.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

Work = dict[str, int]


def memorizing(work: Work) -> tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
    """memorizing-transformers-pytorch with a full memory, and a cache of one segment in every layer."""
    from memorizing_transformers_pytorch import MemorizingTransformer

    model = MemorizingTransformer(
        num_tokens=work["vocabulary"], dim=work["width"], depth=work["layers"], dim_head=work["head_size"],
        heads=work["heads"], memorizing_layers=work["layers"] * 3 // 4, max_knn_memories=work["slots"],
        num_retrieved_memories=work["neighbours"], xl_max_memories=work["segment"],
        xl_memory_layers=tuple(range(1, work["layers"] + 1)), knn_memories_directory=tempfile.mkdtemp(),
    )  # fmt: skip
    memories = model.create_knn_memories(batch_size=work["lanes"])
    cache: Any = None

    def loss(text: torch.Tensor) -> torch.Tensor:
        nonlocal cache
        nats, cache = model(text[:, :-1], knn_memories=memories, xl_memories=cache, labels=text[:, 1:])
        return nats

    with torch.no_grad():
        for _ in range(work["slots"] // work["segment"]):
            loss(random_text(work))
    return model, loss


def block_recurrent(work: Work) -> tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
    """block-recurrent-transformer-pytorch with a window of one segment."""
    from block_recurrent_transformer_pytorch import BlockRecurrentTransformer

    model = BlockRecurrentTransformer(
        num_tokens=work["vocabulary"], dim=work["width"], depth=work["layers"], dim_head=work["head_size"],
        heads=work["heads"], max_seq_len=work["segment"], block_width=work["segment"],
        num_state_vectors=work["states"], recurrent_layers=(work["layers"] * 5 // 6,), use_flash_attn=True,
    )  # fmt: skip
    cache: Any = []
    states: Any = []

    def loss(text: torch.Tensor) -> torch.Tensor:
        nonlocal cache, states
        nats, cache, states = model(text, return_loss=True, xl_memories=cache, states=states)
        cache, states = [tensor.detach() for tensor in cache], [tensor.detach() for tensor in states]
        return nats

    return model, loss


def recurrent_memory(work: Work) -> tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
    """recurrent-memory-transformer-pytorch without its cache."""
    from recurrent_memory_transformer_pytorch import RecurrentMemoryTransformer

    model = RecurrentMemoryTransformer(
        work["width"], num_tokens=work["vocabulary"], depth=work["layers"], num_memory_tokens=work["memory_tokens"],
        seq_len=work["segment"], dim_head=work["head_size"], heads=work["heads"], use_flash_attn=True,
        use_xl_memories=False, num_residual_streams=1, abs_pos_emb=False, rotary_pos_emb=True,
    )  # fmt: skip
    memories: Any = None

    def loss(text: torch.Tensor) -> torch.Tensor:
        nonlocal memories
        nats, memories, _ = model(text[:, :-1], memories, labels=text[:, 1:])
        memories = memories.detach()
        return nats

    return model, loss


PEERS = {
    "memorizing-transformers-pytorch": memorizing,
    "block-recurrent-transformer-pytorch": block_recurrent,
    "recurrent-memory-transformer-pytorch": recurrent_memory,
}


def random_text(work: Work) -> torch.Tensor:
    """One segment per lane and its next token; without 0, which is padding in some packages."""
    return torch.randint(1, work["vocabulary"], (work["lanes"], work["segment"] + 1))


def main() -> None:
    name, work, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    now = time.process_time if threads == 1 else time.perf_counter
    torch.manual_seed(0)
    model, loss = PEERS[name](work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for _ in sys.stdin:
        text = random_text(work)
        began = now()
        optimizer.zero_grad(set_to_none=True)
        loss(text).backward()
        optimizer.step()
        print(now() - began, flush=True)


if __name__ == "__main__":
    main()

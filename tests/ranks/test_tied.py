"""One parameter under two names, as where the output layer of a published checkpoint is its embedding."""

import torch
from torch import nn

from memexp.cost.sharing import weights
from memexp.ranks.sharding import gathered_alone, rows
from memexp.train import shards

from ..tiny import configure


class Tied(nn.Module):
    """5 words, width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner, self.output = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight

    def step(self) -> torch.optim.Optimizer:
        """A step of AdamW, so that there are averages."""
        optimizer = torch.optim.AdamW(self.parameters())
        self.output(self.inner(self.embedding.weight)).square().sum().backward()
        optimizer.step()
        return optimizer


def test_it_is_gathered_once_and_the_plan_says_so() -> None:
    model = Tied()
    assert gathered_alone(model) == [model.inner]
    found = weights(model, configure("shard_weights=true"), devices=2)
    assert (found.matrices, found.rest) == ([4 * 4 + 4], 6 * 4)  # a row is added, so that both have as many
    model.output.weight = nn.Parameter(torch.zeros(5, 4))
    assert gathered_alone(model) == [model.inner, model.output]


def test_all_its_rows_come_back_from_parts() -> None:
    source, target = Tied(), Tied()
    optimizer, restored = source.step(), target.step()
    whole = {"rates": [0.5], "parts": 2}
    all_of = shards.local(source.state_dict(), source, optimizer)

    def part(number: int) -> dict[str, dict[str, torch.Tensor]]:
        def of(value: torch.Tensor) -> torch.Tensor:
            return value[rows(len(value), number, 2)] if value.dim() else value

        return {
            "model": {name: of(value) for name, value in all_of["model"].items()},
            "averages": {
                name: {key: of(value) for key, value in found.items()} for name, found in all_of["averages"].items()
            },
        }

    shards.restore(target.state_dict(), target, restored, whole, part, sharded=False)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        for key, value in optimizer.state[theirs].items():
            assert torch.equal(restored.state[ours][key], value)

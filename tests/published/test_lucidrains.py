"""Our models against lucidrains' packages, with their random weights in ours.

Shapes: N segments, B lanes, T tokens, D width, H heads, K head size, M slots, R scores, F taps of the convolution.
"""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memexp.model.block import Block
from memexp.model.compressive import Compressive
from memexp.model.knn_memory import router
from memexp.model.transformer.attention import split_heads

from .packages import (
    BY_DESIGN,
    LANES,
    OUTPUTS,
    SECOND,
    SHAPE,
    build,
    differ,
    double_by_default,
    fill_attention,
    fill_feedforward,
    in_double,
    package,
    random_weights,
    read,
    silence_feedforward,
    text,
)


@pytest.mark.parametrize("keep", [1, 5, 17])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_coordinate_descent_is_that_of_colt5(keep: int, spread: float) -> None:
    """With the settings of its router for the schedule; the last scores are masked."""
    colt5 = package("colt5_attention")
    generator = torch.Generator().manual_seed(0)
    scores_BHR = spread * torch.randn(LANES, 3, 40, generator=generator, dtype=torch.float64)
    void_BHR = (torch.arange(40) >= 33).expand_as(scores_BHR)
    published = colt5.coor_descent(
        scores_BHR.flatten(0, 1), k=keep, mask=~void_BHR.flatten(0, 1), n_iters=router.ITERATIONS,
        eps=router.SHARPNESS, eps_init=router.FIRST_SHARPNESS, eps_decay=router.DECAY,
    ).view_as(scores_BHR)  # fmt: skip
    threshold_BH1 = router.descend(scores_BHR, void_BHR, torch.tensor(keep).view(1, 1, 1))
    weights_BHR = router.soft_weights(scores_BHR, threshold_BH1).masked_fill(void_BHR, 0)
    assert differ(weights_BHR, published) < 1e-12


WINDOW = 3
GAINS = 5.0, 1.4
"""Of normalised queries and keys."""


def gain_norm(gain: Tensor) -> nn.Module:
    """The norm of our models with this gain; the package has LayerNorm."""
    norm = nn.RMSNorm(len(gain), eps=1e-6)
    norm.weight = nn.Parameter(gain.detach())
    return norm


@torch.no_grad()
def recurrent(*, normalise: bool) -> Any:
    """Layers that see their window and the window before, without state vectors; with our norms and feed-forward layers."""
    module = package("block_recurrent_transformer_pytorch.block_recurrent_transformer_pytorch")
    theirs = module.BlockRecurrentTransformer(
        num_tokens=SHAPE.vocabulary, dim=SHAPE.width, depth=SHAPE.layers, dim_head=SHAPE.head_size, heads=SHAPE.heads,
        max_seq_len=SHAPE.segment, block_width=WINDOW, recurrent_layers=(), all_layers_qk_rmsnorm=normalise,
    ).eval()  # fmt: skip
    random_weights(theirs)
    for pair in theirs.layers:
        pair[0].norm = gain_norm(pair[0].norm.gamma)
        pair[1] = nn.Sequential(
            gain_norm(pair[1][0].gamma),
            nn.Linear(SHAPE.width, SHAPE.feedforward, bias=False),
            nn.ReLU(),
            nn.Linear(SHAPE.feedforward, SHAPE.width, bias=False),
        )
        random_weights(pair[1])
        if normalise:
            for scale, gain in zip((pair[0].attn.q_scale, pair[0].attn.k_scale), GAINS, strict=True):
                scale.fill_(gain)
    theirs.to_logits = nn.Identity()
    return theirs


@torch.no_grad()
def ours_of_recurrent(theirs: Any, *, normalise: bool) -> Block:
    """Our model with the published weights; there scores are divided by the root of K even if queries and keys have unit norm."""
    model = build(Block, mem=0, window=WINDOW, position="xpos", shared_values=True, normalise=normalise)
    model.head.embedding_VD.copy_(theirs.token_emb.weight)
    for layer, (attention, feedforward) in zip(model.layers, theirs.layers, strict=True):
        keys, values = attention.to_kv.weight.chunk(2)
        fill_attention(
            layer.attention, queries=attention.to_q.weight, keys=keys, values=values, output=attention.to_out.weight
        )
        layer.attention_norm.weight.copy_(attention.norm.weight)
        fill_feedforward(layer, gain=feedforward[0].weight, rise=feedforward[1].weight, fall=feedforward[3].weight)
        if layer.attention.scale_H is not None:
            layer.attention.scale_H.fill_(GAINS[0] * GAINS[1] * SHAPE.head_size**-0.5)
    return model


@torch.no_grad()
def read_recurrent(theirs: Any) -> Tensor:
    """The final activations of the text, N B T D."""
    hidden, memories = [], []
    for segment, tokens_BT in enumerate(text()):
        memories = [] if segment == SECOND else memories
        hidden_BTD, memories, _ = theirs(tokens_BT, xl_memories=memories)
        hidden.append(hidden_BTD)
    return torch.stack(hidden)


@pytest.mark.parametrize("normalise", [False, True])
def test_layers_of_block_recurrent_transformer_are_ours_with_xpos(normalise: bool) -> None:
    """Whole stacks over segments of two windows; heads share keys and values, and xPos turns and shrinks them.

    There a token sees its window and the whole window before. Here it sees as many tokens as a window has; without this
    limit both are the same.
    """
    package("block_recurrent_transformer_pytorch")
    with in_double(import_module("block_recurrent_transformer_pytorch.block_recurrent_transformer_pytorch")):
        theirs = recurrent(normalise=normalise)
        model = ours_of_recurrent(theirs, normalise=normalise)
        published = read_recurrent(theirs)
        assert differ(read(model), published) > BY_DESIGN
        model.reach = None
        assert differ(read(model), published) < OUTPUTS


FACTOR, SLOTS = 3, 4
TAPS_F = [0.7, 0.2, -0.4]
"""Weights of the convolution: the same for all channels, because it mixes activations there and keys and values here."""


@torch.no_grad()
def compressive() -> tuple[Any, Any]:
    """Its attention layer and ours, which has no feed-forward layer."""
    module = package("compressive_transformer_pytorch.compressive_transformer_pytorch")
    shape = replace(SHAPE, layers=1)
    theirs = module.SelfAttention(
        SHAPE.width, seq_len=SHAPE.segment, mem_len=SHAPE.segment, cmem_len=SLOTS, cmem_ratio=FACTOR, heads=SHAPE.heads
    )
    random_weights(theirs)
    theirs.to_out.bias.zero_()
    theirs.compress_mem_fn.conv.bias.zero_()
    taps = torch.tensor(TAPS_F)
    theirs.compress_mem_fn.conv.weight.copy_(torch.eye(SHAPE.width)[..., None] * taps)
    model = build(
        Compressive, mem=SLOTS, shape=shape, cache=SHAPE.segment, factor=FACTOR, compress="convolution",
        position="none", normalise=False,
    )  # fmt: skip
    random_weights(model)
    silence_feedforward(model)
    keys, values = theirs.to_kv.weight.chunk(2)
    fill_attention(
        model.layers[0].attention, queries=theirs.to_q.weight, keys=keys, values=values, output=theirs.to_out.weight
    )
    for convolution in (model.compressors[0].keys, model.compressors[0].values):
        convolution.weight.copy_(torch.eye(SHAPE.head_size).repeat(SHAPE.heads, 1)[..., None] * taps)
    return theirs.train(), model.train()


def of_taps(gradient: Tensor) -> Tensor:
    """The gradient of the weights that all channels share, F; channels of a head are mixed only with those of this head."""
    diagonal = torch.eye(gradient.shape[1], dtype=torch.bool).repeat(len(gradient) // gradient.shape[1], 1)
    return gradient[diagonal].sum(0)


def test_compression_and_its_loss_are_those_of_compressive_transformer() -> None:
    """One layer over two documents: what attention reads from slots, cache and text, the slots, the loss and its gradient.

    Without positions, which are learned there, and without a bias of the convolution. A slot is the convolution of
    activations there, of keys and values here.
    """
    package("compressive_transformer_pytorch")
    with double_by_default():
        theirs, model = compressive()
        [layer], [compressor] = model.layers, model.compressors
        state, memories, losses = model.init_state(LANES), None, 0
        for segment, tokens_BT in enumerate(text()):
            starts = segment in (0, SECOND)
            there_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
            embedded_BTD = model.head.embed(tokens_BT)
            output = model(tokens_BT, there_BT, state, torch.full((LANES,), starts))
            added_BTD, memories, loss = theirs(
                layer.attention_norm(embedded_BTD).detach(), memories=None if starts else memories
            )
            memories = tuple(part.detach() for part in memories)
            state = output.state
            assert differ(output.hidden_BTD - embedded_BTD, added_BTD) < OUTPUTS
            made = memories[1].shape[1]
            assert made == min(SLOTS, (segment % SECOND) * SHAPE.segment // FACTOR)
            for ours_BHMK, weight in zip(state.memory.layers[0], theirs.to_kv.weight.chunk(2), strict=True):
                published_BHMK = split_heads(memories[1] @ weight.T, SHAPE.head_size)
                assert not made or differ(ours_BHMK[:, :, SLOTS - made :], published_BHMK) < OUTPUTS
            if starts:
                assert output.aux["reconstruction"].item() == loss.item() == 0
                continue
            losses += 1
            assert loss.item() > BY_DESIGN
            assert differ(output.aux["reconstruction"], loss) < OUTPUTS
            gradients = torch.autograd.grad(
                output.aux["reconstruction"], [compressor.keys.weight, compressor.values.weight]
            )
            [published] = torch.autograd.grad(loss, [theirs.compress_mem_fn.conv.weight])
            assert differ(sum(of_taps(gradient) for gradient in gradients), of_taps(published)) < OUTPUTS
        assert losses == 4

"""Titans: a small network in each head learns from every token while it reads; alone, or with attention in a window or a segment.

Shapes: B lanes, T tokens, D width, H heads, K size of an attention head, N persistent tokens, S keys in sight.
"""

from dataclasses import replace
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.matrix_memory import TitansArch
from memexp.model.matrix_memory.neural import Begun, GateOfHeads, Given, NeuralMemory
from memexp.model.matrix_memory.of_layers import OfLayers
from memexp.model.matrix_memory.recurrent import GatedOutput, Mixer, Pass, RecurrentModel
from memexp.model.segment import Activations, MemoryCost
from memexp.model.transformer.attention import (
    Attention,
    CausalMask,
    Heads,
    LayerCache,
    Mask,
    Sight,
    attend,
    join_heads,
    share,
    split_heads,
)
from memexp.model.transformer.numerics import at_least_fp32, unit_norm
from memexp.model.transformer.position import Places
from memexp.model.transformer.shape import Shape
from memexp.model.watching import mean_of_layers


class Persistent(nn.Module):
    """Keys and values of one layer's attention that do not depend on the text and have no positions."""

    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.keys_HNK = nn.Parameter(torch.randn(shape.heads, number, shape.head_size))
        self.values_HNK = nn.Parameter(torch.randn(shape.heads, number, shape.head_size))

    def before(self, sight: Sight, heads: Heads, attention: Attention) -> Sight:
        """The sight with these keys in front."""
        keys_HNK = self.keys_HNK if attention.scale_H is None else unit_norm(self.keys_HNK)
        lanes = len(heads.queries_BHTK)
        both = (part_HNK.expand(lanes, -1, -1, -1) for part_HNK in (keys_HNK, self.values_HNK))
        return attention.beside(sight, heads, *both)


class _Attending(Pass):
    """A pass in which each layer's attention also sees persistent tokens."""

    model: "Titans"
    mask: Mask = None
    """Of a layer: where its queries may attend, the same for all layers; made for the first."""

    def see(self, index: int, attention: Attention, heads: Heads, sight: Sight, mask: Tensor | CausalMask) -> Tensor:
        """The output of the heads of layer `index`, B H T K, which see the persistent tokens too."""
        if not self.model.persistent_tokens:
            return attend(sight, mask)
        if self.mask is None:
            whole = mask.whole if isinstance(mask, CausalMask) else mask
            self.mask = F.pad(whole, (self.model.persistent_tokens, 0), value=True)
        return attend(self.model.persistent[index].before(sight, heads, attention), self.mask)


class _Beside(_Attending):
    """A pass in which each layer has a memory beside its attention (MAG)."""

    gate_BTP: Tensor
    """Of the layer that is being read: `enter` sets it for `attend`, which comes next."""

    def enter(self, index: int, x_BTD: Tensor) -> Tensor:
        """Read and teach the memory of layer `index`, from the layer's input."""
        if index < len(self.model.memories):
            self.gate_BTP = self.mix(index, self.model.norms[index](x_BTD))
        return x_BTD

    def attend(self, index: int, attention: Attention, heads: Heads, sight: Sight, mask: Mask) -> Tensor:
        """Local attention, gated by what the memory gave."""
        assert mask is not None
        local_BHTK = self.see(index, attention, heads, sight, mask)
        if not self.model.memories:
            return local_BHTK
        return local_BHTK * split_heads(self.gate_BTP, local_BHTK.shape[-1]).to(local_BHTK.dtype)


class _Context(_Attending):
    """A pass in which each layer's attention sees what its memory gives, and its memory learns from what attention gives (MAC)."""

    twice: Tensor | None = None
    """The mask of the given vectors and of the tokens, which is the same; 1 1 T S, made for the first layer."""
    places: Places
    """Of the given vectors and of the tokens; made with `twice`."""
    given_BTD: Tensor
    """Of the layer that is being read: `enter` sets it for `attend`, which comes next."""

    def enter(self, index: int, x_BTD: Tensor) -> Tensor:
        """Ask the memory of the segment's start, from the layer's input: h."""
        if index < len(self.model.given):
            memory = self.memory[index]
            start = memory.start if isinstance(memory, Begun) else memory
            self.given_BTD = self.model.given[index](x_BTD, start)
        return x_BTD

    def attend(self, index: int, attention: Attention, heads: Heads, sight: Sight, mask: Mask) -> Tensor:
        """y = attention to h and to the segment; the memory learns from y, and what it then gives gates y."""
        assert isinstance(mask, CausalMask)
        given = self.model.layers[index].attention.project(self.given_BTD, None, text=slice(0))
        keys_BHTK, values_BHTK = given.keys_BGTK, given.values_BGTK
        memory, length = self.memory[index], heads.queries_BHTK.shape[2]
        if isinstance(memory, Begun) and memory.given:
            before = (part.to(keys_BHTK.dtype) for part in memory.given)
            keys_BHTK, values_BHTK = (
                torch.cat(pair, dim=2) for pair in zip(before, (keys_BHTK, values_BHTK), strict=True)
            )
        earlier = sight.keys_BGSK.shape[2] - length
        past = LayerCache(
            torch.cat([keys_BHTK, sight.keys_BGSK[:, :, :earlier]], dim=2),
            torch.cat([values_BHTK, sight.values_BGSK[:, :, :earlier]], dim=2),
            heads.input_BD,
        )
        if self.twice is None:
            self.twice, self.places = torch.cat([mask.whole, mask.whole], dim=-1), self._places(mask.places)
        around = attention.look(heads, past, self.places)
        y_BHTK = self.see(index, attention, heads, around, self.twice)
        gate_BTP = self.mix(index, self.model.norms[index](at_least_fp32(join_heads(y_BHTK))))
        self.gauges[-1] |= mean_of_layers(memory_share=share(around, self.twice, slice(0, earlier + length)))
        if isinstance(memory, Begun):
            self.memory[index] = self.memory[index]._replace(given=(keys_BHTK, values_BHTK))
        return y_BHTK * split_heads(gate_BTP, y_BHTK.shape[-1]).to(y_BHTK.dtype)

    def _places(self, text: Places) -> Places:
        """A segment of h, then the segment."""
        length = self.model.shape.segment
        return Places(
            text.query_T + length, torch.cat([text.key_S, text.key_S + length]), lowest=0, highest=2 * length - 1
        )


@final
class Titans(RecurrentModel):
    """Titans (Behrouz, Zhong, Mirrokni 2025): a neural memory instead of attention, as a gate of it, or as its context.

    The memory is a network M in each head whose weights are the state; it starts as learned. With k, q of unit norm, and k, q, v =
    SiLU(conv(x W)), a convolution over four tokens for each channel:

        M(u) = u + LayerNorm(GELU(u W1) W2)                                (`memory=mlp`)
        M(u) = u W                                                         (`memory=linear`)
        theta, eta, alpha = sigmoid(x W_r + b_r)                           (for each token and head)
        S <- eta S - theta gradient of |M(k) - v|^2 / 2                    (momentum; the gradient is that at the chunk's start)
        M <- (1 - alpha) M + S
        read = M(q)                                                        (the token reads after its own write)

    `role=layer` (LMM): the layer's output is (RMSNorm(read) * SiLU(x W_g)) W_o; there is no attention, `arch.window` must be 0.
    `role=gate` (MAG, section 4.2): attention in a window, whose heads are multiplied by sigmoid(RMSNorm(read) W_g) before their
    output projection.
    `role=context` (MAC, section 4.1): attention within the segment, `arch.window` must be 0. M' is M at the segment's start:

        h = RMSNorm(M'(q')) W_h, q' = SiLU(x W_q') of unit norm
        y_i = attention of token i to persistent tokens, to h_j and to x_j, j <= i
        y_i * sigmoid(RMSNorm(M_i(q)) W_g)                                 (output; M learns from y in place of x, k, q, v of y)

    The paper prints h = M'(q), y = Attention([P, h, x]), M <- M'(y), output = y * M(y) for a whole segment. That is not causal, in
    two places: a token that sees all of h sees what was asked for later tokens, and M has learned from later tokens when it is read.
    Ours sees h_j up to its own token, and reads M_i, which has learned from no later token.

    `arch.persistent` tokens are keys and values that every token sees, learned for each layer, without positions.

    Gradients cross segment borders through M, S and the convolution. The outer gradient goes through the inner one: what is written
    (W_k, W_v, theta) is learned only from what is read later. `arch.chunk` is part of the model: gradients at the start of longer
    chunks are further from those of the weights that are there, and where a token is repeated its steps add up: with `memory=linear`
    the matrix then grows without limit. `arch.clip` limits the norm of each token's gradient. TTT (Sun et al. 2024) is close to `momentum=false forget=none`.

    *Differs from the paper:*

    - The context is causal, as said above. h stands where a segment before this one would; the paper does not say where.
    - Only attention sees persistent tokens. In the paper memories also learn from them, once, before a document; here the learned
      start of M takes the place of this. By default there are none; the paper has 128.
    - Attention and feed-forward layers are those of the other architectures here.
    - The loss has a factor of 1/2, as in the appendix; the text has none. The start of the rates is not stated; see `START`.
    - Rates are one number for each token and head. With `forget=start` networks forget towards their learned start: an MLP of
      zeros would have no gradient, and so never learn again.
    - The paper leaves the non-linearity of the gate open; ours is a sigmoid of the memory alone.
    """

    memories: OfLayers[NeuralMemory]
    """Of each layer with attention."""
    given: OfLayers[Given]
    """Of each layer, with `role=context`."""
    persistent: OfLayers[Persistent]
    """Of each layer, if there are persistent tokens."""

    def __init__(self, shape: Shape, mem: int, arch: TitansArch) -> None:
        super().__init__(shape, cache=arch.window, memory=mem)
        layers = range(shape.layers) if mem else range(0)
        alone, context = arch.role == "layer", arch.role == "context"
        mixers = {}
        if alone:
            mixers = {index: NeuralMemory(shape, mem, arch, GatedOutput(shape, value_size=mem)) for index in layers}
        self.add_parts(arch, mixers)
        beside = range(0) if alone else layers
        if not alone:
            self.passing = _Context if context and mem else _Beside
        # with attention before it, the memory learns from all heads together
        learns = replace(shape, width=shape.heads * shape.head_size) if context else shape
        self.norms = nn.ModuleList(nn.RMSNorm(learns.width, eps=1e-6) for _ in beside)
        self.memories = OfLayers(NeuralMemory(learns, mem, arch, GateOfHeads(shape, mem)) for _ in beside)
        self.given = OfLayers(Given(shape, mem) for _ in (beside if context else ()))
        self.persistent_tokens = arch.persistent if mem else 0
        seen = beside if self.persistent_tokens else range(0)
        self.persistent = OfLayers(Persistent(shape, arch.persistent) for _ in seen)
        if context:
            self.reach = None

    @property
    def mixers(self) -> list[Mixer]:
        """Those with attention, or in its place."""
        return [*self.memories] if self.memories else super().mixers

    @property
    def in_sight(self) -> int:
        """Persistent tokens, and the window or what the memory gives for a segment."""
        return self.persistent_tokens + self.cache_tokens + bool(self.given) * self.shape.segment

    @property
    def attended(self) -> float:
        """As much of what the memory gives for a segment as of the segment; persistent tokens count as weights."""
        return self.window + 1.0 if self.given else super().attended

    def activations(self, *, half: bool) -> Activations:
        """With what the memories give for a segment."""
        found, kept = super().activations(half=half), self.kept(half=half)
        given = sum(part.keeps(kept, self.shape.segment, self.memories[0].form) for part in self.given)
        return found._replace(memory=found.memory + given)

    @property
    def memory_cost(self) -> MemoryCost:
        """Without the start of the networks, which are no weights of a token; and asking and projecting what is given."""
        cost = super().memory_cost
        start = sum(weight.numel() for mixer in self.mixers for weight in cast(NeuralMemory, mixer).start)
        asked = sum(self.shape.heads * memory.form.weights for memory in self.memories if self.given)
        projected = sum(part.projections for part in self.layers.attentions if self.given)
        return cost._replace(recurrence=cost.recurrence - start + asked + projected)

"""The layers of a published checkpoint, whose heads read what an architecture lets them read.

transformers computes everything between two attentions. What the heads of a layer read is asked of us, through its interface for
attention, with queries and keys that no position has turned yet: the network is told that every token stands at place 0, where
rotary positions turn nothing. So caches, rings and memory tokens work as they do on our own layers.
Shapes: B lanes, T tokens, D width, H heads, G heads of keys and values, K head size, S keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from memexp.errors import UserError
from memexp.model.transformer.attention import Attention, Heads, LayerCache
from memexp.model.transformer.decoder import Enter, Layers, Leave, ReadHeads
from memexp.model.transformer.head import Head
from memexp.model.transformer.numerics import at_least_fp32, cast_to
from memexp.model.transformer.position import Places, Position, Positioned

NAME = "memexp"
"""The name of our attention among those of transformers."""

READER = "memexp_reader"
"""The keyword with which a forward pass hands down what reads; so a module keeps nothing of a pass."""

COUNTED = 16
"""Positions in which what the layers keep is counted."""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Settings of checkpoints whose feed-forward layers are several, of which a token is sent to some."""

KNOWN = {
    "dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "cache_position", "scaling", "sliding_window", READER
}  # fmt: skip
"""What transformers may tell an attention: what changes nothing here, and what is done here."""


_counted: dict[tuple[Any, ...], float | None] = {}
"""What was counted, by the checkpoint's config, the precision, and names and shapes of the weights that are trained; the rows of a
plan share it."""


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **told: Any) -> Any:
    """The attention that is registered with transformers, B T H K."""
    if READER not in told:
        raise UserError(
            "the layers of this checkpoint do not pass on what they are told; expected those of another family, such as Llama"
        )
    return told[READER](module, query, key, value, told).transpose(1, 2), None


class PretrainedRotary(Position):
    """The checkpoint's own rotary positions.

    A factor that it puts on turned vectors (YaRN) is on them already, because place 0 has it too.
    """

    turns = True

    def __init__(self, rotary: nn.Module, turn: Callable[..., Any], layer_type: str | None) -> None:
        """
        Args:
            rotary: gives cosines and sines of places; it stays a part of the checkpoint's network, not of this module.
            turn: the family's `apply_rotary_pos_emb`.
            layer_type: which of several kinds of positions the layer has; None: there is one.
        """
        super().__init__()
        self._rotary, self._turn, self._more = [rotary], turn, () if layer_type is None else (layer_type,)
        scaling = "attention_scaling" if layer_type is None else f"{layer_type}_attention_scaling"
        self._factor = float(getattr(rotary, scaling, 1.0))

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        """Turn both; only differences of places count, and no checkpoint knows places below 0."""
        return Positioned(self._turned(queries_BHTK, places, "query_T"), self._turned(keys_BHSK, places, "key_S"), None)

    def _turned(self, x_BHSK: Tensor, places: Places, whose: str) -> Tensor:
        if not x_BHSK.shape[2]:
            return x_BHSK
        cosine, sine = places.once(
            (id(self._rotary[0]), *self._more, whose, x_BHSK.dtype), lambda: self._waves(x_BHSK, places, whose)
        )
        size = cosine.shape[-1]
        turned = self._turn(x_BHSK[..., :size], x_BHSK[:, :0, :, :size], cosine, sine)[0]
        return turned if size == x_BHSK.shape[-1] else torch.cat([turned, x_BHSK[..., size:]], dim=-1)

    def _waves(self, like: Tensor, places: Places, whose: str) -> Tensor:
        lowest_S1 = places.once("lowest place", lambda: places.key_S.min().clamp_max(0))
        place_1S = (getattr(places, whose) - lowest_S1)[None]
        return torch.stack(self._rotary[0](like, place_1S, *self._more)) / self._factor


class PretrainedAttention(Attention):
    """What is ours of a checkpoint's attention: positions, and what its queries see. Its projections are not here."""

    def __init__(self, *, heads: int, groups: int, head_size: int, position: Position) -> None:
        super().__init__()
        self.heads, self.head_size, self.stored = heads, head_size, groups * head_size
        self.position, self.scale_H, self.smear_D = position, None, None


class PretrainedLayers(Layers, nn.Module):
    """All that a checkpoint computes between its embedding and its output layer, its last norm included."""

    def __init__(self, base: nn.Module, attentions: list[Attention], *, by_embedding: bool) -> None:
        """
        Args:
            base: the model of transformers without its output layer.
            by_embedding: whether it adds positions to the embeddings, so that its tokens need their places in the segment.
        """
        super().__init__()
        self.base, self.by_embedding = base, by_embedding
        self._attentions = attentions  # a list, so that their modules are not registered twice

    @property
    def attentions(self) -> list[Attention]:
        """What is ours of the attention of each layer."""
        return self._attentions

    def train(self, mode: bool = True) -> "PretrainedLayers":
        """Without the checkpoint's dropout and whatever else it does only in training."""
        return super().train(False)

    def through(
        self,
        x_BTD: Tensor,
        read_heads: ReadHeads,
        *,
        past: Sequence[LayerCache] = (),
        enter: Enter | None = None,
        leave: Leave | None = None,
        text: slice = slice(None),
    ) -> Tensor:
        """Pass a segment through all layers; the final activations, which leave the last layer, are those after the last norm.

        Raises:
            UserError: the attention of the checkpoint does something that is not known here.
        """
        asked: list[int] = []

        def reader(module: Any, query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any]) -> Tensor:
            if unknown := sorted(name for name, given in told.items() if given is not None and name not in KNOWN):
                raise UserError(
                    f"the attention of this checkpoint needs {', '.join(unknown)}, which memexp does not have; expected plain attention, "
                    "as in Llama"
                )
            asked.append(module.layer_idx)
            ours = self._attentions[module.layer_idx]
            ours.reach = None if (window := told.get("sliding_window")) is None else window - 1
            scaling = told.get("scaling")
            query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
            return read_heads(module.layer_idx, ours, Heads(query, key, value, x_BTD[:, text][:, -1:].sum(1)))

        before = past[0].keys_BGCK.shape[2] if self.by_embedding and past else 0
        place_T = torch.arange(before, before + x_BTD.shape[1], device=x_BTD.device) * self.by_embedding
        with self._between(enter, leave):
            output = self.base(inputs_embeds=x_BTD, position_ids=place_T[None], use_cache=False, **{READER: reader})
        if asked != [*range(len(self._attentions))]:
            raise UserError(
                f"{len(asked)} of the {len(self._attentions)} layers of this checkpoint asked what to read; expected all, one after another"
            )
        final_BTD: Tensor = output.last_hidden_state
        if leave is not None:
            leave(len(asked) - 1, final_BTD)
        return final_BTD

    def saved(self, *, half: bool) -> float | None:
        """Bytes that the backward pass needs of a position, in all layers, without what attention itself keeps.

        They are counted in a pass of tensors without values, because what a layer keeps differs from family to family, and with
        what is trained. None if values decide what is computed, as where a token is sent to some of many experts.

        Args:
            half: whether products are in bf16.
        """
        base: Any = self.base
        trained = tuple((name, each.shape) for name, each in base.named_parameters() if each.requires_grad)
        key = (base.config.to_json_string(), half, trained)
        if key not in _counted:
            _counted[key] = self._count(half=half)
        return _counted[key]

    def _count(self, *, half: bool) -> float | None:
        base: Any = self.base
        if any(hasattr(base.config.get_text_config(), name) for name in EXPERTS):
            return None
        try:
            few, more = (self._saved(positions, half=half) for positions in (COUNTED, 2 * COUNTED))
        except (RuntimeError, TypeError, ValueError):  # what such a tensor cannot do
            return None
        return (more - few) / COUNTED  # weights do not grow with the positions

    def _saved(self, positions: int, *, half: bool) -> int:
        """Bytes of a pass of so many positions in one lane; the weights have no values, as in every plan."""

        def reader(module: Any, query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any]) -> Tensor:
            return query + (key + value).sum((1, 3), keepdim=True)

        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
            return tensor

        base: Any = deepcopy(self.base)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16, enabled=half):
            base.to_empty(device="cpu")
            width = base.config.get_text_config().hidden_size
            x_BTD = torch.empty(1, positions, width, requires_grad=True)
            places = torch.arange(positions)[None]
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                base(inputs_embeds=x_BTD, position_ids=places, use_cache=False, **{READER: reader})
            return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    @contextmanager
    def _between(self, enter: Enter | None, leave: Leave | None) -> Iterator[None]:
        """During a pass, change what enters each layer and show what leaves all but the last; nothing of it stays on the modules."""
        handles: list[Any] = []

        def change(index: int, layer: nn.Module, enter: Enter) -> None:
            def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
                if given:
                    return (enter(index, given[0]), *given[1:]), named
                return given, named | {"hidden_states": enter(index, named["hidden_states"])}

            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))

        def show(index: int, layer: nn.Module, leave: Leave) -> None:
            def after(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
                leave(index, output[0] if isinstance(output, tuple) else output)

            handles.append(layer.register_forward_hook(after))

        blocks = [*self._blocks()] if enter is not None or leave is not None else []
        for index, layer in enumerate(blocks):
            if enter is not None:
                change(index, layer, enter)
            if leave is not None and index < len(blocks) - 1:
                show(index, layer, leave)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _blocks(self) -> nn.ModuleList:
        """The layers, each with its attention and all that follows it.

        Raises:
            UserError: the checkpoint does not keep them in one list.
        """
        lists = [module for module in self.base.modules() if isinstance(module, nn.ModuleList)]
        found = [blocks for blocks in lists if len(blocks) == len(self._attentions) and all(map(_attends, blocks))]
        if not found:
            raise UserError(
                "the layers of this checkpoint are not in one list, so nothing can be added to what enters them; expected those of another "
                "family, such as Llama, or another arch"
            )
        return found[0]


def _attends(block: nn.Module) -> bool:
    return any(hasattr(module, "layer_idx") and hasattr(module, "is_causal") for module in block.modules())


class PretrainedHead(Head):
    """A checkpoint's embedding and output layer."""

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: of transformers.
        """
        nn.Module.__init__(self)
        config = model.config.get_text_config()
        self.embedding, self.output = model.get_input_embeddings(), model.get_output_embeddings()
        self.vocabulary = self.most_logits = self.embedding.weight.shape[0]
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._factor = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)

    @property
    def embedding_VD(self) -> Tensor:  # type: ignore[override]
        """The vectors of the words, V D."""
        words: Tensor = self.embedding.weight
        return words

    @property
    def multiplications(self) -> float:
        """Multiplications for the loss of one token."""
        return float(self.output.weight.numel())

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The input of the first layer, B T D."""
        embedded: Tensor = self.embedding(tokens_BT)
        return embedded

    def classifying(self, *, first: int, classes: int) -> "ClassHead":
        """The embedding with an output layer for classes, whose ids follow those of the text's `first` tokens."""
        return ClassHead(self, first=first, classes=classes)

    def _scaled(self, hidden_BTD: Tensor) -> Tensor:
        """The last norm is one of the layers."""
        hidden_BTD = hidden_BTD if self.training else at_least_fp32(hidden_BTD)
        return hidden_BTD.to(cast_to(hidden_BTD.device) or self.output.weight.dtype)

    def _logits(self, scaled_BTD: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the next token, B T V."""
        logits: Tensor = self.output(scaled_BTD) * self._factor
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap


class ClassHead(PretrainedHead):
    """A checkpoint's embedding, and a vector for each class as its output layer: documents end in their class, and nothing else is scored.

    A softmax is over the classes alone, as in other work with pretrained models. Where our own layers learn a vocabulary with classes
    in it, the words of a checkpoint would be far likelier than a class that it has never seen.
    """

    def __init__(self, of: PretrainedHead, *, first: int, classes: int) -> None:
        """
        Args:
            of: the checkpoint's; its output layer is not used.
            first: the id of the first class.
        """
        nn.Module.__init__(self)
        self.embedding, self.output = of.embedding, nn.Linear(of.embedding_VD.shape[1], classes, bias=False)
        nn.init.normal_(self.output.weight, std=self.output.in_features**-0.5)
        self.vocabulary, self.most_logits, self._first = first + classes, classes, first
        self._cap, self._factor = None, 1.0

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Unnormalised log-probabilities, B T V; those of words are minus infinity."""
        return F.pad(super().logits(hidden_BTD), (self._first, 0), value=-torch.inf)

    @torch.no_grad()
    def best(self, hidden_BTD: Tensor, first: int = 0) -> Tensor:
        """The most likely class, B T."""
        return self._first + super().logits(hidden_BTD).argmax(-1)

    def _nats_of(self, scaled_ND: Tensor, targets_N: Tensor, places: list[Tensor]) -> Tensor:
        """Of words, which are not scored, those of the first class."""
        class_N = (targets_N - self._first).clamp_min(0)
        return F.cross_entropy(self._logits(scaled_ND).float(), class_N, reduction="none")

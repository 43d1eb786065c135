"""Attention on a CPU, put together from calls of PyTorch's fused kernel: a bias may learn, and what nobody may see costs nothing.

The kernel by itself falls back to whole matrices of scores when its mask wants a gradient, and multiplies what a causal
mask then hides. Here queries are taken in blocks. The keys near a block have a mask and a bias, the same tile for every
block; the keys farther back have none. Both reads are joined by their logarithms of sums, and the kernel's backward pass is
right for each part alone when it is given what the whole gave (Dao et al. 2022, section 3).
Shapes: B lanes, H heads, T queries, S keys, K head size, Q queries and W keys of a tile.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VOID = -1e30
"""Added to scores that do not count; finite, so that a part in which none counts is not NaN."""


class Layout(NamedTuple):
    """How queries and keys are cut. The last query stands at the last key, the others in order before it."""

    block: int
    near: int
    """Keys up to a block's last that have a mask and a bias."""
    first: int
    """No query may see a key before this one."""
    far: bool
    """Whether keys farther back than the near ones are seen."""
    shared: bool
    """Whether one tile serves every block; else all keys are near, and the tile has a row for every query."""


class _Piece(NamedTuple):
    """A block: its queries, the keys of both parts, and the place of the near ones in the tile."""

    rows: slice
    far: slice
    near: slice
    tile: tuple[slice, slice]

    @property
    def has_far(self) -> bool:
        return self.far.stop > self.far.start


def attend_in_blocks(
    queries_BHTK: Tensor,
    keys_BHSK: Tensor,
    values_BHSK: Tensor,
    layout: Layout,
    *,
    bias_BHQW: Tensor | None,
    mask_BHQW: Tensor,
    void_BS: Tensor | None,
) -> Tensor:
    """What each head reads, B H T K; scores are not scaled.

    Args:
        bias_BHQW: added to the scores of the near keys; may be 1 in its first axis, and may want a gradient.
        mask_BHQW: which of them count; may be 1 in its first two axes.
        void_BS: keys, near or far, that do not count in a lane; None: all do.
    """
    read_BHTK: Tensor = _Attention.apply(queries_BHTK, keys_BHSK, values_BHSK, bias_BHQW, mask_BHQW, void_BS, layout)
    return read_BHTK


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor | None,
        mask: Tensor,
        void_BS: Tensor | None,
        layout: Layout,
    ) -> Tensor:
        kind = torch.promote_types(queries.dtype, torch.float32)
        added = torch.zeros(mask.shape, dtype=kind).masked_fill_(~mask, VOID)
        if bias is not None:
            added = added + bias
        voids = None if void_BS is None else torch.zeros_like(void_BS, dtype=kind).masked_fill_(void_BS, VOID)
        ctx.bias_shape = None if bias is None else bias.shape
        reads, logs, near_logs = [], [], []
        ctx.pieces = list(_pieces(layout, mask, queries.shape[2], keys.shape[2]))
        for piece in ctx.pieces:
            some = queries[:, :, piece.rows]
            read, log = _flash(some, keys, values, piece.near, _added(added, voids, piece, some))
            near_logs.append(log)
            if piece.has_far:
                far_read, far_log = _flash(some, keys, values, piece.far, _voids(voids, piece.far, some))
                whole = torch.logaddexp(log, far_log)
                near_share, far_share = ((part - whole).exp()[..., None] for part in (log, far_log))
                read = (read * near_share + far_read * far_share).to(some.dtype)
                log = whole
            reads.append(read)
            logs.append(log)
        read_BHTK = torch.cat(reads, dim=2) if len(reads) > 1 else reads[0]
        ctx.save_for_backward(queries, keys, values, added, voids, read_BHTK, *logs, *near_logs)
        return read_BHTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHTK: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, added, voids, read_BHTK, *saved = ctx.saved_tensors
        logs, near_logs = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        to_queries, to_keys, to_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        to_bias = torch.zeros(ctx.bias_shape, dtype=added.dtype) if ctx.needs_input_grad[3] else None
        for piece, log, near_log in zip(ctx.pieces, logs, near_logs, strict=True):
            some, read, gradient = (x[:, :, piece.rows] for x in (queries, read_BHTK, gradient_BHTK))
            whole = _Whole(some, read, log, gradient)
            near_added = _added(added, voids, piece, some)
            near_keys, near_values = keys[:, :, piece.near], values[:, :, piece.near]
            if to_bias is None:
                to_some, to_near, to_near_values = _flash_backward(whole, near_keys, near_values, near_added)
            else:
                near_share = (near_log - log).exp()[..., None]
                to_some, to_near, to_near_values, to_tile = _written_out(
                    whole, near_keys, near_values, near_added, near_share
                )
                to_bias[:, :, *piece.tile] += to_tile if len(to_bias) > 1 else to_tile.sum(0, keepdim=True)
            to_keys[:, :, piece.near] += to_near
            to_values[:, :, piece.near] += to_near_values
            if piece.has_far:
                to_some_too, to_far, to_far_values = _flash_backward(
                    whole, keys[:, :, piece.far], values[:, :, piece.far], _voids(voids, piece.far, some)
                )
                to_some = to_some + to_some_too
                to_keys[:, :, piece.far] += to_far
                to_values[:, :, piece.far] += to_far_values
            to_queries[:, :, piece.rows] = to_some
        return to_queries, to_keys, to_values, to_bias, None, None, None


class _Whole(NamedTuple):
    """What the backward pass of a part is told of the whole block."""

    queries: Tensor
    read: Tensor
    log: Tensor
    gradient: Tensor


def _flash_backward(whole: _Whole, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the queries, keys and values of a part."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        whole.gradient, whole.queries, keys, values, whole.read, whole.log, 0.0, False, attn_mask=mask, scale=1.0
    )
    return found


def _written_out(
    whole: _Whole, keys: Tensor, values: Tensor, added: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same, and the gradient to what was added to the scores, which the kernel keeps to itself.

    Args:
        share: of the part in the whole block's attention, by query.
    """
    # not the exponential of what is far below 0, which takes ten times as long
    weights = (added + whole.queries @ keys.mT).softmax(-1).mul_(share)
    to_scores = (whole.gradient @ values.mT).to(added.dtype)
    to_scores -= (whole.gradient * whole.read).sum(-1, keepdim=True, dtype=added.dtype)
    to_scores *= weights
    own, weights = to_scores.to(keys.dtype), weights.to(keys.dtype)
    return own @ keys, own.mT @ whole.queries, weights.mT @ whole.gradient, to_scores


def _pieces(layout: Layout, mask_BHQW: Tensor, queries: int, keys: int) -> Iterator[_Piece]:
    for start in range(0, queries, layout.block):
        stop = min(start + layout.block, queries)
        if not layout.shared:
            rows, seen = slice(start, stop), mask_BHQW[:, :, start:stop].flatten(0, 2).any(0).nonzero()
            columns = slice(int(seen.min()), int(seen.max()) + 1) if len(seen) else slice(0, keys)
            yield _Piece(rows, slice(0, 0), columns, (rows, columns))
            continue
        first = keys - queries + start + layout.block - layout.near  # the key of the tile's first column
        near, end = max(layout.first, first), keys - queries + stop
        far = slice(min(layout.first, near) if layout.far else near, near)
        yield _Piece(
            slice(start, stop), far, slice(near, end), (slice(0, stop - start), slice(near - first, end - first))
        )


def _flash(some: Tensor, keys: Tensor, values: Tensor, span: slice, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        some, keys[:, :, span], values[:, :, span], 0.0, False, attn_mask=mask, scale=1.0
    )
    return found


def _added(added: Tensor, voids: Tensor | None, piece: _Piece, like: Tensor) -> Tensor:
    """What is added to the scores of the near keys, for every lane and head."""
    tile = added[:, :, *piece.tile]
    if voids is not None:
        tile = tile + voids[:, None, None, piece.near]
    return tile.expand(*like.shape[:2], -1, -1)


def _voids(voids: Tensor | None, span: slice, like: Tensor) -> Tensor | None:
    return None if voids is None else voids[:, None, None, span].expand(*like.shape[:3], -1)

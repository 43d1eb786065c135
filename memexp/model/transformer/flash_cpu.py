"""Attention on a CPU with PyTorch's fused kernel, with a bias that can be learned and without work on hidden keys.

The kernel alone has two faults. It computes whole matrices of scores if its mask needs a gradient, and it multiplies
queries with keys that a causal mask hides. So the queries are split into blocks here. The keys near a block have a mask and
a bias, the same *tile* for every block; the keys farther back have neither. Of these, the *old* keys get no gradient
and are seen by all queries, so all blocks read them together. The outputs of these parts are combined by their log-sum-exp.
The backward pass of each part is correct if it gets the output and the log-sum-exp of the whole (Dao et al. 2022,
section 3).
Shapes: B lanes, H heads, T queries, S keys, K head size, Q queries and W keys of a tile.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VOID = -1e30
"""Added to masked scores; finite, so that a part in which all scores are masked does not become NaN."""
SCORES_AT_ONCE = 1 << 19
"""Scores of old keys that exist at once in the backward pass, so that they stay in the processor's caches."""


class Layout(NamedTuple):
    """How queries and keys are split. The queries are at the positions of the last keys."""

    block: int
    """Queries of a block."""
    near: int
    """Number of near keys, which have a mask and a bias; the last of them is at the block's last query."""
    first: int
    """Index of the first key that any query may see."""
    recent: int
    """Index of the first key that is not old; keys from `first` up to it get no gradient and are far from every query."""
    far: bool
    """Whether queries see keys farther back than the near keys."""
    shared: bool
    """Whether all blocks share one tile; otherwise all keys are near, and the tile has a row for every query."""


class _Piece(NamedTuple):
    """A block: its queries, its far and near keys, and the rows and columns of the near keys in the tile."""

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
    """The output of each head, B H T K; scores are not scaled.

    Args:
        bias_BHQW: added to the scores of the near keys; B may be 1; may require a gradient.
        mask_BHQW: true for near keys that a query sees; B and H may be 1.
        void_BS: true for keys, near or far, that a lane does not see; None: it sees all.
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
        dtype = torch.promote_types(queries.dtype, torch.float32)
        added = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, VOID)
        if bias is not None:
            added = added + bias
        voids = None if void_BS is None else torch.zeros_like(void_BS, dtype=dtype).masked_fill_(void_BS, VOID)
        ctx.bias_shape = None if bias is None else bias.shape
        old = slice(layout.first, layout.recent)
        ctx.has_old = old.stop > old.start
        if ctx.has_old:
            old_read, old_log = _flash(queries, keys, values, old, _far_mask(voids, old, queries))
        reads, logs, near_logs = [], [], []
        ctx.pieces = list(_pieces(layout, mask, queries.shape[2], keys.shape[2]))
        for piece in ctx.pieces:
            block = queries[:, :, piece.rows]
            read, log = _flash(block, keys, values, piece.near, _near_mask(added, voids, piece, block))
            near_logs.append(log)
            if piece.has_far:
                far = _flash(block, keys, values, piece.far, _far_mask(voids, piece.far, block))
                read, log = _combined((read, log), far)
            if ctx.has_old:
                read, log = _combined((read, log), (old_read[:, :, piece.rows], old_log[:, :, piece.rows]))
            reads.append(read)
            logs.append(log)
        read_BHTK = torch.cat(reads, dim=2) if len(reads) > 1 else reads[0]
        ctx.layout = layout
        saved_old = [old_log] if ctx.has_old else []
        ctx.save_for_backward(queries, keys, values, added, voids, read_BHTK, *saved_old, *logs, *near_logs)
        return read_BHTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHTK: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, added, voids, read_BHTK, *saved = ctx.saved_tensors
        old_log = saved.pop(0) if ctx.has_old else None
        logs, near_logs = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        grad_queries, grad_keys, grad_values = (
            torch.empty_like(queries),
            torch.zeros_like(keys),
            torch.zeros_like(values),
        )
        grad_bias = torch.zeros(ctx.bias_shape, dtype=added.dtype) if ctx.needs_input_grad[3] else None
        for piece, log, near_log in zip(ctx.pieces, logs, near_logs, strict=True):
            block, read, gradient = (x[:, :, piece.rows] for x in (queries, read_BHTK, gradient_BHTK))
            whole = _Whole(block, read, log, gradient)
            near_mask = _near_mask(added, voids, piece, block)
            near_keys, near_values = keys[:, :, piece.near], values[:, :, piece.near]
            if grad_bias is None:
                grad_block, grad_near, grad_near_values = _flash_backward(whole, near_keys, near_values, near_mask)
            else:
                near_share = (near_log - log).exp()[..., None]
                grad_block, grad_near, grad_near_values, grad_tile = _dense_backward(
                    whole, near_keys, near_values, near_mask, near_share
                )
                grad_bias[:, :, *piece.tile] += grad_tile if len(grad_bias) > 1 else grad_tile.sum(0, keepdim=True)
            grad_keys[:, :, piece.near] += grad_near
            grad_values[:, :, piece.near] += grad_near_values
            if piece.has_far:
                grad_block_far, grad_far, grad_far_values = _flash_backward(
                    whole, keys[:, :, piece.far], values[:, :, piece.far], _far_mask(voids, piece.far, block)
                )
                grad_block = grad_block + grad_block_far
                grad_keys[:, :, piece.far] += grad_far
                grad_values[:, :, piece.far] += grad_far_values
            grad_queries[:, :, piece.rows] = grad_block
        if old_log is not None:
            old, log = slice(ctx.layout.first, ctx.layout.recent), torch.cat(logs, dim=2)
            grad_queries += _queries_backward(
                _Whole(queries, read_BHTK, log, gradient_BHTK),
                keys[:, :, old],
                values[:, :, old],
                None if voids is None else voids[:, old],
                (old_log - log).exp()[..., None],
            )
        return grad_queries, grad_keys, grad_values, grad_bias, None, None, None


class _Whole(NamedTuple):
    """Tensors of the whole block that the backward pass of each part needs."""

    queries: Tensor
    read: Tensor
    log: Tensor
    """The log-sum-exp of the scores."""
    gradient: Tensor


def _flash_backward(whole: _Whole, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the queries, keys and values of a part."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        whole.gradient, whole.queries, keys, values, whole.read, whole.log, 0.0, False, attn_mask=mask, scale=1.0
    )
    return gradients


def _dense_backward(
    whole: _Whole, keys: Tensor, values: Tensor, added: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the queries, keys and values of a part, and of its scores, which the kernel does not return.

    Args:
        share: the attention weight of the part in the whole block, for each query.
    """
    # softmax times share, because exp(scores - log) takes ten times as long where scores are far below log
    weights = (added + whole.queries @ keys.mT).softmax(-1).mul_(share)
    grad_scores = (whole.gradient @ values.mT).to(added.dtype)
    grad_scores -= (whole.gradient * whole.read).sum(-1, keepdim=True, dtype=added.dtype)
    grad_scores *= weights
    rounded, weights = grad_scores.to(keys.dtype), weights.to(keys.dtype)
    return rounded @ keys, rounded.mT @ whole.queries, weights.mT @ whole.gradient, grad_scores


def _queries_backward(whole: _Whole, keys: Tensor, values: Tensor, voids_BS: Tensor | None, share: Tensor) -> Tensor:
    """The gradient of the queries alone, from a part without gradient: three products instead of the kernel's five.

    Args:
        share: the attention weight of the part, for each query.
    """
    grad_queries = torch.empty_like(whole.queries)
    along = (whole.gradient * whole.read).sum(-1, keepdim=True, dtype=share.dtype)
    rows = max(1, SCORES_AT_ONCE // keys.shape[2])
    lanes, heads, length, _ = grad_queries.shape
    for at in product(range(lanes), range(heads), (slice(start, start + rows) for start in range(0, length, rows))):
        part = at[:2]
        scores = (whole.queries[at] @ keys[part].T).to(share.dtype)
        if voids_BS is not None:
            scores += voids_BS[at[0]]
        weights = scores.softmax(-1).mul_(share[at])
        grad_scores = (whole.gradient[at] @ values[part].T).to(share.dtype).sub_(along[at]).mul_(weights)
        grad_queries[at] = grad_scores.to(keys.dtype) @ keys[part]
    return grad_queries


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
        far = slice(min(layout.recent, near) if layout.far else near, near)
        yield _Piece(
            slice(start, stop), far, slice(near, end), (slice(0, stop - start), slice(near - first, end - first))
        )


def _flash(block: Tensor, keys: Tensor, values: Tensor, span: slice, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output of a block of queries over the keys in `span`, and the log-sum-exp of the scores."""
    output: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        block, keys[:, :, span], values[:, :, span], 0.0, False, attn_mask=mask, scale=1.0
    )
    return output


def _combined(part: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The output and the log-sum-exp of two parts together."""
    (read, log), (other_read, other_log) = part, other
    whole = torch.logaddexp(log, other_log)
    share, other_share = ((each - whole).exp()[..., None] for each in (log, other_log))
    return (read * share + other_read * other_share).to(read.dtype), whole


def _near_mask(added: Tensor, voids: Tensor | None, piece: _Piece, like: Tensor) -> Tensor:
    """What is added to the scores of the near keys, for every lane and head."""
    tile = added[:, :, *piece.tile]
    if voids is not None:
        tile = tile + voids[:, None, None, piece.near]
    return tile.expand(*like.shape[:2], -1, -1)


def _far_mask(voids: Tensor | None, span: slice, like: Tensor) -> Tensor | None:
    """What is added to the scores of the far keys, for every lane and head; None: nothing."""
    return None if voids is None else voids[:, None, None, span].expand(*like.shape[:3], -1)

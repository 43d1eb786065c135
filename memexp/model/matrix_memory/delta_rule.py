"""The gated delta rule: each token forgets a part of a matrix, writes to it and reads it; computed chunk by chunk.

Shapes: B lanes, H heads, T tokens, N chunks of C tokens, K size of a key (rows of the matrix), V size of a value, X rows that
decay by themselves: K, or 1 if all rows decay alike.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.regions import part

CHUNK = 64
"""Tokens of a chunk if all rows of a matrix decay alike (Yang et al. 2025)."""
CHUNK_BY_ROW = 16
"""If each row has a decay of its own: then C x C x K numbers are made for a chunk."""


def chunk_of(length: int, *, decays: int) -> int:
    """The default of C for so many tokens, and so many decays of a matrix."""
    return min(length, CHUNK_BY_ROW if decays > 1 else CHUNK)


class Written(NamedTuple):
    """What a segment read of a matrix, and the matrix after it."""

    reads_BHTV: Tensor
    memory_BHKV: Tensor


def gated_delta_rule(
    memory_BHKV: Tensor,
    queries_BHTK: Tensor,
    keys_BHTK: Tensor,
    values_BHTV: Tensor,
    strength_BHT: Tensor,
    log_decay_BHTX: Tensor | None,
    *,
    corrects: bool,
    chunk: int | None = None,
) -> Written:
    """For each token S <- alpha S, then u = beta (v - k S), S <- S + k^T u, and q S is read (Yang et al. 2025, equation 10).

    With g the product of the alphas of a chunk up to a token, and R_ij = g_i / g_j for j <= i, the tokens of a chunk are computed
    together, exactly (section 3.3, and section 3.1 of Kimi Team 2025 for a decay of each row):

        (I + strictly lower (beta R * K K^T)) U = beta (V - g K S)         (triangular: u of a token needs those before it)
        reads = g Q S + lower (R * Q K^T) U
        S <- g_C S + (g_C / g K)^T U                                       (g_C: of the chunk's last token)

    Args:
        strength_BHT: beta; a token with 0 writes nothing.
        log_decay_BHTX: log alpha, 0 at most; None: nothing is forgotten.
        corrects: u is beta times what the matrix does not recall of the value (the delta rule); otherwise u = beta v.
        chunk: C, which changes nothing but the speed; None: `chunk_of`.
    """
    length, rows = keys_BHTK.shape[2], 0 if log_decay_BHTX is None else log_decay_BHTX.shape[-1]
    size = chunk or chunk_of(length, decays=rows)
    with part("memory"), full_precision(keys_BHTK.device):
        # tokens that fill the last chunk have strength 0 and do not decay, so they change nothing
        q, k, v, strength = (_chunks(x, size) for x in (queries_BHTK, keys_BHTK, values_BHTV, strength_BHT[..., None]))
        decays = None if log_decay_BHTX is None else _Decays(_chunks(log_decay_BHTX, size).cumsum(-2))
        k_in, q_in, k_out = (k, q, k) if decays is None else (k * decays.start, q * decays.start, k * decays.rest)
        *own, seen_BHNCC = _products(k, *([k] if corrects else []), q, decays=decays)
        added_BHNCV = strength * v
        if corrects:
            # with both right-hand sides at once, all chunks of a segment are solved together; only what S adds is left
            both = torch.cat([added_BHNCV, strength * k_in], dim=-1)
            solved = torch.linalg.solve_triangular(strength * own[0], both, upper=False, unitriangular=True)
            added_BHNCV, recalls_BHNCK = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
        memory_BHKV, reads = at_least_fp32(memory_BHKV), []
        for n in range(k.shape[2]):
            u_BHCV = added_BHNCV[:, :, n]
            if corrects:
                u_BHCV = u_BHCV - recalls_BHNCK[:, :, n] @ memory_BHKV
            reads.append(q_in[:, :, n] @ memory_BHKV + seen_BHNCC[:, :, n] @ u_BHCV)
            left_BHKV = memory_BHKV if decays is None else memory_BHKV * decays.whole[:, :, n]
            memory_BHKV = left_BHKV + k_out[:, :, n].mT @ u_BHCV
        return Written(torch.cat(reads, dim=2)[:, :, :length], memory_BHKV)


class _Decays:
    """Products of decays in each chunk. Their logarithms are subtracted: a quotient of products would be 0 / 0 where they vanish."""

    def __init__(self, total_BHNCX: Tensor) -> None:
        """
        Args:
            total_BHNCX: log g, from the chunk's start to each token, with the token's own.
        """
        self.start = total_BHNCX.exp()
        self.rest = (total_BHNCX[..., -1:, :] - total_BHNCX).exp()
        self.whole = self.start[..., -1, :, None]
        """g_C, for the rows of the matrix, B H N X 1."""
        gaps_BHNCCX = total_BHNCX[..., :, None, :] - total_BHNCX[..., None, :, :]
        size = total_BHNCX.shape[-2]
        later_CC1 = torch.ones(size, size, dtype=torch.bool, device=total_BHNCX.device).triu(1)[..., None]
        # masked first: above the diagonal the exponential may be infinite
        self.between = gaps_BHNCCX.masked_fill(later_CC1, 0).exp()
        """R, B H N C C X, 1 above the diagonal."""


def _products(k_BHNCK: Tensor, *others_BHNCK: Tensor, decays: _Decays | None) -> list[Tensor]:
    """R * A K^T for each other A, lower with the diagonal, B H N C C."""
    if decays is None:
        products = [a @ k_BHNCK.mT for a in others_BHNCK]
    elif decays.between.shape[-1] == 1:
        products = [a @ k_BHNCK.mT * decays.between.squeeze(-1) for a in others_BHNCK]
    else:
        decayed_BHNCCK = decays.between * k_BHNCK[..., None, :, :]
        products = [(decayed_BHNCCK @ a[..., None]).squeeze(-1) for a in others_BHNCK]
    return [product.tril() for product in products]


def _chunks(x_BHTX: Tensor, size: int) -> Tensor:
    """B H N C X, with zeros at the end; in one piece, else each product copies it and keeps its copy."""
    short, x_BHTX = -x_BHTX.shape[2] % size, at_least_fp32(x_BHTX)
    whole = F.pad(x_BHTX, (0, 0, 0, short)) if short else x_BHTX.contiguous()
    return whole.unflatten(2, (-1, size))


class Form(NamedTuple):
    """The sizes of one head and what it does: what `gated_delta_rule` costs."""

    keys: int
    """K."""
    values: int
    """V."""
    decays: int
    """X; 0 if nothing is forgotten."""
    corrects: bool

    def multiplications(self, length: int) -> float:
        """Of each of `length` tokens, with the matrix and with the tokens of the chunk."""
        size = chunk_of(length, decays=self.decays)
        of_matrix, of_chunk = 2 * self.keys * self.values, size * (self.keys + self.values)
        corrections = self.keys * self.values + size * self.keys + size / 2 * (self.keys + self.values)
        return of_matrix + of_chunk + corrections * self.corrects

    def held(self, length: int) -> float:
        """Numbers that are there at most while `length` tokens are read, beside the arguments and a matrix before and after: those of
        chunks, the sides of the equations and their solution, what was read before and after it is joined, and two more matrices."""
        size, alike = chunk_of(length, decays=self.decays), self.decays == 1
        a_token = self.values + size + 2 * self.values + (0 if self.corrects else self.values)
        if self.decays:
            a_token += 3 * self.keys + size * (1 if alike else self.keys)
        if self.corrects:
            a_token += size + 2 * (self.keys + self.values)
        return length * a_token + 2 * self.keys * self.values

    def kept(self, length: int) -> float:
        """Numbers that the backward pass needs of `length` tokens: the arguments and all between, but not what was read."""
        size, alike = chunk_of(length, decays=self.decays), self.decays == 1
        a_token = (2 * self.keys + self.values + 1) + self.values + size  # arguments, u, and what weighs it
        if self.decays:
            a_token += 3 * self.decays + 2 * self.keys + 2 * size * (1 if alike else self.keys)
        if self.corrects:
            a_token += 2 * size + self.keys + self.values + (self.keys + size * alike if self.decays else 0)
        return length * a_token + -(-length // size) * self.keys * self.values

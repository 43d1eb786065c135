"""Our T5 bias against the published one: buckets of distances, and the bias of each query and key."""

from functools import cache

import pytest
import torch

from memexp.model.transformer.position import Places, T5Bias, bucket, dense, in_order

from .transformer_xl import Arrays, load

SETTINGS = [(32, 128), (32, 256), (64, 128), (16, 64), (32, 1024)]
"""Buckets in all, and the farthest distance that has a bucket of its own."""


@cache
def arrays() -> Arrays:
    return load("t5_relative_bias")


@pytest.mark.parametrize(("buckets", "farthest"), SETTINGS)
def test_buckets_are_the_published_ones(buckets: int, farthest: int) -> None:
    """For a decoder; the published code puts all keys ahead in bucket 0, and ours is not asked about them."""
    distance_R = arrays()["distances"].long()
    behind_R = distance_R >= 0
    published_R = arrays()[f"buckets.{buckets}_{farthest}_causal"]
    ours_R = bucket(distance_R[behind_R], buckets=buckets, farthest=farthest)
    assert ours_R.tolist() == published_R[behind_R].tolist()


@pytest.mark.parametrize(("buckets", "farthest"), SETTINGS)
def test_buckets_of_both_sides_are_the_published_ones(buckets: int, farthest: int) -> None:
    """For an encoder, the published code divides its buckets between keys behind and keys ahead."""
    distance_R = arrays()["distances"].long()
    half = bucket(distance_R.abs(), buckets=buckets // 2, farthest=farthest)
    ours_R = half + buckets // 2 * (distance_R < 0)
    assert ours_R.tolist() == arrays()[f"buckets.{buckets}_{farthest}_bidirectional"].tolist()


def model() -> T5Bias:
    ours = T5Bias(int(arrays()["const.heads"]), two_sided=False).double()
    with torch.no_grad():
        ours.bias_HR.copy_(arrays()["weight.relative_attention_bias"].T)
    return ours


def test_the_bias_of_a_distance_is_the_published_one() -> None:
    """Up to 199,999 tokens, from each query to one key."""
    distance_R, ours = arrays()["distances"].long(), model()
    behind_R = distance_R >= 0
    places = Places(distance_R[behind_R], torch.zeros(1, dtype=torch.long), lowest=0, highest=int(distance_R.max()))
    bias_1HT1 = dense(ours(torch.zeros(1, 4, len(places.query_T), 8), torch.zeros(1, 4, 1, 8), places).bias)
    assert bias_1HT1 is not None
    assert torch.equal(bias_1HT1[0, :, :, 0], arrays()["bias.causal"][:, behind_R])


def test_the_bias_of_queries_and_keys_is_the_published_one() -> None:
    """The queries are the last of the keys."""
    ours = model()
    queries, keys = int(arrays()["const.queries"]), int(arrays()["const.keys"])
    nothing = torch.zeros(1, ours.bias_HR.shape[0], keys, 8)
    matrix_1HTS = dense(ours(nothing[:, :, -queries:], nothing, in_order(queries, keys, nothing.device)).bias)
    assert matrix_1HTS is not None
    visible_TS = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    assert torch.equal(matrix_1HTS[0][:, visible_TS], arrays()["bias_matrix.causal"][:, visible_TS])


def test_our_bias_of_both_sides_has_more_buckets_by_design() -> None:
    """Ours has 32 buckets for each side, so that keys behind have the same bias with and without memory tokens ahead."""
    ours = T5Bias(int(arrays()["const.heads"]), two_sided=True)
    assert ours.ahead_HR is not None
    published = int(arrays()["buckets.32_128_bidirectional"].max()) + 1
    assert (ours.bias_HR.shape[1] + ours.ahead_HR.shape[1], published) == (64, 32)

"""The output layer against its formula, and adaptive softmax against PyTorch's and the plain one."""

import pytest
import torch
from torch import Tensor

from memexp.config.arch import ARCHS
from memexp.model.build import build_model
from memexp.model.transformer import head as heads
from memexp.model.transformer.head import AdaptiveHead, Head

from ...tiny import configure

WIDTH, VOCABULARY, CUTOFFS = 16, 60, (10, 25, 40)


def adaptive(narrowing: int, *, cutoffs: tuple[int, ...] = CUTOFFS, vocabulary: int = VOCABULARY) -> AdaptiveHead:
    torch.manual_seed(0)
    head = AdaptiveHead(vocabulary, WIDTH, cutoffs=cutoffs, narrowing=narrowing)
    torch.nn.init.normal_(head.norm.weight)
    return head


def hidden() -> Tensor:
    return torch.randn(2, 90, WIDTH, generator=torch.Generator().manual_seed(1)) * 4


def targets() -> Tensor:
    """Every word, the last of a cluster and the first of the next among them."""
    return torch.arange(180).view(2, 90) % VOCABULARY


@torch.no_grad()
def pytorchs(head: AdaptiveHead, narrowing: int) -> torch.nn.AdaptiveLogSoftmaxWithLoss:
    """PyTorch's module with the same weights, for normalised and scaled activations."""
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(WIDTH, VOCABULARY, list(CUTOFFS), div_value=narrowing)
    theirs.head.weight.copy_(torch.cat([head.embedding_VD, head.entry_KD]))
    for tail, cluster in zip(theirs.tail, head.clusters, strict=True):
        tail[0].weight.copy_(torch.eye(WIDTH) if cluster.weight is None else cluster.weight)
        tail[1].weight.copy_(cluster.embedding_VD)
    return theirs


@pytest.mark.parametrize("narrowing", [1, 2])
def test_nats_and_logits_are_pytorchs_each_at_its_token(narrowing: int) -> None:
    head = adaptive(narrowing)
    theirs = pytorchs(head, narrowing)
    x_ND = (head.norm(hidden()) / WIDTH**0.5).flatten(0, 1)
    torch.testing.assert_close(head.nats(hidden(), targets()).flatten(), -theirs(x_ND, targets().flatten()).output)
    torch.testing.assert_close(head.logits(hidden()).flatten(0, 1), theirs.log_prob(x_ND))
    assert torch.equal(head.best(hidden()).flatten(), theirs.predict(x_ND))


def test_with_one_word_a_cluster_it_is_the_plain_softmax() -> None:
    head, plain = adaptive(1, cutoffs=(57, 58, 59)), Head(VOCABULARY, WIDTH)
    with torch.no_grad():
        plain.embedding_VD.copy_(torch.cat([head.embedding_VD, head.entry_KD]))
        plain.norm.weight.copy_(head.norm.weight)
    torch.testing.assert_close(head.nats(hidden(), targets()), plain.nats(hidden(), targets()))
    torch.testing.assert_close(head.logits(hidden()), plain.logits(hidden()).log_softmax(-1))


@pytest.mark.parametrize("head", [Head(VOCABULARY, WIDTH), adaptive(2)], ids=["plain", "adaptive"])
def test_a_word_of_its_own_takes_its_share_from_all_others(head: Head) -> None:
    """The chance of a word joins those of all others in proportion to its exponential; a cluster is worth its entry."""
    word = torch.randn(WIDTH)
    x_ND = (head.norm(hidden()) / WIDTH**0.5).flatten(0, 1)
    others = torch.cat([head.embedding_VD, head.entry_KD]) if isinstance(head, AdaptiveHead) else head.embedding_VD
    own_N, all_N = (x_ND @ word).exp(), (x_ND @ others.T).exp().sum(-1)
    found = head.nats_of_another(hidden(), word)
    torch.testing.assert_close(found.flatten(), -(own_N / (own_N + all_N)).log())
    [gradient] = torch.autograd.grad(found.sum(), [head.embedding_VD])
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("head", [Head(VOCABULARY, WIDTH), adaptive(2)], ids=["plain", "adaptive"])
def test_losses_that_are_kept_are_of_full_precision(head: Head) -> None:
    """In training half precision will do."""
    expected, logits = head.eval().nats(hidden(), targets()), head.logits(hidden())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.nats(hidden(), targets()), expected)
        assert torch.equal(head.logits(hidden()), logits)
        assert torch.equal(head.best(hidden()), logits.argmax(-1))
        assert not torch.equal(head.train().nats(hidden(), targets()), expected)


@pytest.mark.parametrize("narrowing", [1, 2])
def test_embeddings_are_the_vectors_that_the_softmax_reads(narrowing: int) -> None:
    head = adaptive(narrowing)
    wide = [each.embedding_VD if each.weight is None else each.embedding_VD @ each.weight for each in head.clusters]
    torch.testing.assert_close(head.embed(targets()), torch.cat([head.embedding_VD, *wide])[targets()])


@torch.no_grad()
def test_rare_words_are_as_large_as_frequent_ones() -> None:
    torch.manual_seed(0)
    head = AdaptiveHead(3000, 256, cutoffs=(1000, 2000), narrowing=4)
    x_BTD = head.norm(torch.randn(4, 99, 256)) / 256**0.5
    for words in torch.arange(3000).split(1000):
        assert head.embed(words).std() == pytest.approx(1, abs=0.1)
    for cluster in head.clusters:
        assert cluster.logits(x_BTD).std() == pytest.approx(1, abs=0.1)


def test_in_pieces_it_is_the_same_and_every_weight_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for at_once in (heads.LOGITS_AT_ONCE, 100):
        monkeypatch.setattr(heads, "LOGITS_AT_ONCE", at_once)
        head = adaptive(2)
        head.nats(hidden(), targets()).sum().backward()
        gradients.append([parameter.grad for parameter in head.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_has_it_where_words_are_in_its_order(arch: str) -> None:
    cut = ["size.cutoffs=[10,25]", "size.narrowing=2", f"arch={arch}"]
    assert type(build_model(configure(*cut), vocabulary=VOCABULARY).head) is Head
    model = build_model(configure("data.tokenizer.kind=lines", *cut), vocabulary=VOCABULARY)
    assert isinstance(model.head, AdaptiveHead)
    tokens_BT = torch.arange(2 * model.shape.segment).view(2, -1) % VOCABULARY
    there_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    output = model(tokens_BT, there_BT, model.init_state(2), torch.ones(2, dtype=torch.bool))
    model.head.nats(output.hidden_BTD, tokens_BT).mean().backward()
    assert len(model.head.clusters) == 2
    assert all(cluster.embedding_VD.grad.abs().sum() > 0 for cluster in model.head.clusters)
    torch.testing.assert_close(model.head.logits(output.hidden_BTD).exp().sum(-1), torch.ones(tokens_BT.shape))


def test_cutoffs_beyond_the_vocabulary_cut_nothing() -> None:
    small = build_model(configure("data.tokenizer.kind=lines", "size.cutoffs=[60,90]"), vocabulary=VOCABULARY)
    assert type(small.head) is Head


def test_nats_are_those_of_log_softmax() -> None:
    torch.manual_seed(0)
    head = Head(11, 6)
    hidden, targets = torch.randn(2, 5, 6), torch.randint(11, (2, 5))
    logits = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt() @ head.embedding_VD.T / 6**0.5
    expected = -(logits - logits.exp().sum(-1, keepdim=True).log()).gather(-1, targets[..., None]).squeeze(-1)
    torch.testing.assert_close(head.nats(hidden, targets), expected)
    torch.testing.assert_close(head.logits(hidden), logits)


def test_pieces_change_neither_nats_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = Head(11, 6)
    hidden, targets = torch.randn(2, 5, 6, requires_grad=True), torch.randint(11, (2, 5))
    whole = head.nats(hidden, targets)
    expected = torch.autograd.grad(whole.sum(), [hidden, *head.parameters()])
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", 33)
    pieces = head.nats(hidden, targets)
    torch.testing.assert_close(pieces, whole)
    for found, one in zip(torch.autograd.grad(pieces.sum(), [hidden, *head.parameters()]), expected, strict=True):
        torch.testing.assert_close(found, one)

"""Memories that are kept, and what is retrieved from them, against a loop."""

import torch

from memexp.model.slot_memory.past import Past, Retrieval, begin, begin_again, with_newest

from ..small import gain, randomise, shape


def memories(count: int) -> Past:
    past = begin(torch.randn(3, 24).double(), 2, 4)
    for _ in range(count - 1):
        past = with_newest(past, torch.randn(2, 3, 24).double())
    return past


def test_each_memory_token_reads_all_tokens_of_the_memories_that_are_there() -> None:
    torch.manual_seed(4)
    retrieval = randomise(Retrieval(shape(segment=8)))
    past = memories(3)._replace(count_B=torch.tensor([3, 1]))
    found = retrieval(past)
    weight = {name: value.T for name, value in retrieval.named_parameters()}
    ages = []
    for lane, count in enumerate((3, 1)):
        seen = past.memories_BNMD[lane, 4 - count :].flatten(0, 1)
        for slot in range(3):
            query = gain(past.present_BMD[lane, slot]) @ weight["queries.weight"]
            scores = torch.stack([query @ (gain(other) @ weight["keys.weight"]) for other in seen]) / 24**0.5
            weights = scores.softmax(0)
            expected = (weights[:, None] * (seen @ weight["values.weight"])).sum(0) @ weight["output.weight"]
            torch.testing.assert_close(found.read_BMD[lane, slot], expected)
            ages.append(sum(weights[i] * (count - 1 - i // 3) for i in range(3 * count)))
    torch.testing.assert_close(found.age[0].double(), torch.stack(ages).mean())


def test_the_newest_are_kept_in_order_with_their_gradient() -> None:
    torch.manual_seed(4)
    initial, written = torch.randn(3, 24), [torch.randn(2, 3, 24, requires_grad=True) for _ in range(5)]
    past = begin(initial, 2, 4)
    assert torch.equal(past.present_BMD, initial.expand(2, -1, -1))
    for number, memory in enumerate(written, start=2):
        past = with_newest(past, memory)
        assert past.count_B.tolist() == [min(number, 4)] * 2
    assert torch.equal(past.memories_BNMD, torch.stack(written[1:], dim=1))
    (gradient,) = torch.autograd.grad(past.memories_BNMD[:, 0].sum(), [written[1]])
    assert gradient.eq(1).all()
    again = begin_again(past, initial, torch.tensor([True, False]))
    assert again.count_B.tolist() == [1, 4]
    assert torch.equal(again.memories_BNMD[1], past.memories_BNMD[1])
    assert torch.equal(again.present_BMD[0], initial)

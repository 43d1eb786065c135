"""Recurrent Memory Transformer against the plain decoder, Transformer-XL and its rules written out."""

import pytest
import torch
from torch import Tensor

from memexp.model.rmt import Rmt
from memexp.model.segment import SegmentModel
from memexp.model.slot_memory.past import Past
from memexp.model.vanilla import Vanilla
from memexp.model.xl import Xl

from .make import make
from .small import COMMON, gain, randomise, read, shape, t5_bucket, tokens, unit


def rmt(*, mem: int, segment: int, layers: int = 2, cache: int = 0, **options: object) -> SegmentModel:
    merged = {**COMMON, "position": "t5", **options}
    return randomise(make(Rmt, shape(segment=segment, layers=layers), mem=mem, cache=cache, aux_weight=0.0, **merged))  # type: ignore[arg-type]


@pytest.mark.parametrize("position", ["t5", "xl", "rotary", "none"])
@pytest.mark.parametrize("smear", [False, True])
def test_without_memory_tokens_it_is_the_plain_decoder(position: str, smear: bool) -> None:
    ours = rmt(mem=0, segment=8, position=position, key_smear=smear)
    vanilla = make(Vanilla, shape(segment=8), mem=0, **{**COMMON, "position": position, "key_smear": smear}).double()
    vanilla.load_state_dict(ours.state_dict())
    torch.testing.assert_close(read(ours, tokens(), segment=8), read(vanilla, tokens(), segment=8))


def test_with_a_cache_but_no_memory_tokens_it_is_transformer_xl() -> None:
    ours = rmt(mem=0, segment=8, cache=12)
    xl = make(Xl, shape(segment=8), mem=12, **{**COMMON, "position": "t5"}).double()
    xl.load_state_dict(ours.state_dict())
    torch.testing.assert_close(read(ours, tokens(), segment=8), read(xl, tokens(), segment=8))


def test_new_adapters_leave_the_decoder_as_it_was() -> None:
    """And a memory that was written before, which reads itself as ever, changes nothing."""
    ours = rmt(mem=3, segment=8, cache=4, adapters=True)
    with torch.no_grad():
        ours.adapters.gate_LH.zero_()  # type: ignore[union-attr, operator]
        ours.adapters.written.weight.zero_()  # type: ignore[union-attr, operator]
    plain = make(Xl, shape(segment=8), mem=4, **{**COMMON, "position": "t5"}).double()
    found = plain.load_state_dict(ours.state_dict(), strict=False)
    assert not found.missing_keys
    torch.testing.assert_close(read(ours, tokens(), segment=8), read(plain, tokens(), segment=8))


@pytest.mark.parametrize("position", ["none", "t5"])
@pytest.mark.parametrize(
    ("cache", "sees_cache", "kept", "adapters"),
    [
        *((0, "write", 0, False), (5, "write", 0, False), (5, "none", 0, False), (5, "both", 0, False)),
        *((0, "write", 2, False), (5, "both", 1, False), (5, "write", 0, True), (0, "write", 2, True)),
    ],
)
def test_layers_are_their_rules_written_out(
    position: str, cache: int, sees_cache: str, kept: int, adapters: bool
) -> None:
    """Query by query, from the weights by name: who sees whom, at which distance, and what is carried.

    What read tokens see shows in the second layer, where tokens read them. With `kept` memories, as many read tokens again have
    what the memory retrieves from these; this itself is in tests/model/slot_memory/test_past.py.
    """
    slots, segment = 3, 6
    model = rmt(
        mem=slots,
        segment=segment,
        layers=2,
        cache=cache,
        position=position,
        memory_sees_cache=sees_cache,
        past_memories=kept,
        adapters=adapters,
    )
    before, past = slots * (2 if kept else 1), [dict(model.named_parameters())["initial_MD"].expand(2, -1, -1)]
    reads_cache = {"none": ["token"], "write": ["token", "write"], "both": ["token", "write", "read"]}[sees_cache]
    own, text = dict(model.named_parameters()), tokens()[:, : 3 * segment]
    memory = own["initial_MD"].expand(2, -1, -1)
    cached: dict[int, list[tuple[int, Tensor, Tensor]]] = {0: [], 1: []}  # of each layer: absolute place, key, value
    hidden = []
    for index, part in enumerate(text.split(segment, dim=1)):
        origin = index * segment
        kinds = ["read"] * before + ["token"] * segment + ["write"] * slots
        places = [*range(origin - before, origin + segment + slots)]
        reads = [memory + own["read_MD"]]
        if kept:
            there = torch.full((2,), len(past[-kept:]))
            reads.append(model.retrieval(Past(torch.stack(past[-kept:], 1), there)).read_BMD + own["retrieved_MD"])  # type: ignore[operator]
        x = torch.cat([*reads, own["head.embedding_VD"][part], memory + own["write_MD"]], dim=1)
        for number in (0, 1):
            layer = {key.removeprefix(f"layers.{number}."): value for key, value in own.items()}
            y = gain(x, layer["attention_norm.weight"])
            queries, values = (y @ layer["attention.queries_values.weight"].T).split(16, dim=-1)
            keys = y @ layer["attention.keys.weight"].T
            heads = []
            for head in range(2):
                here = slice(8 * head, 8 * head + 8)
                rows = []
                for i, kind in enumerate(kinds):
                    of_memory = [
                        (places[j], keys[:, j, here], values[:, j, here])
                        for j, other in enumerate(kinds)
                        if other == "read"
                    ]
                    of_text = [
                        (places[j], keys[:, j, here], values[:, j, here])
                        for j, other in enumerate(kinds)
                        if other != "read" and (kind == "write" or (kind == "token" and other == "token" and j <= i))
                    ]
                    if kind in reads_cache:
                        of_text += [(place, key[:, here], value[:, here]) for place, key, value in cached[number]]

                    def seeing(
                        seen: list[tuple[int, Tensor, Tensor]],
                        query: Tensor = queries[:, i, here],
                        layer: dict[str, Tensor] = layer,
                        head: int = head,
                        place_of_query: int = places[i],
                    ) -> Tensor:
                        scores = []
                        for place, key, _ in seen:
                            score = (unit(key) * unit(query)).sum(-1) * layer["attention.scale_H"][head].abs()
                            if position == "t5":
                                distance = place_of_query - place
                                side = "ahead_HR" if distance < 0 else "bias_HR"
                                score = score + layer[f"attention.position.{side}"][head, t5_bucket(abs(distance))]
                            scores.append(score)
                        weights = torch.stack(scores, -1).softmax(-1)
                        return (weights[..., None] * torch.stack([value for _, _, value in seen], 1)).sum(1)

                    if adapters and kind != "read":
                        gate = own["adapters.gate_LH"][number, head].tanh()
                        rows.append(seeing(of_text) + gate * seeing(of_memory))
                    else:
                        rows.append(seeing(of_memory + of_text))
                heads.append(torch.stack(rows, 1))
            x = x + torch.cat(heads, -1) @ layer["attention.output.weight"].T
            y = gain(x, layer["feedforward_norm.weight"])
            x = x + (y @ layer["feedforward.rise.weight"].T).relu() @ layer["feedforward.fall.weight"].T
            new = [(places[j], keys[:, j], values[:, j]) for j, kind in enumerate(kinds) if kind == "token"]
            cached[number] = (cached[number] + new)[-cache:] if cache else []
        hidden.append(x[:, before : before + segment])
        memory = gain(x[:, before + segment :], own["memory_norm.weight"])
        if adapters:
            memory = own["initial_MD"] + memory @ own["adapters.written.weight"].T
        past.append(memory)
    torch.testing.assert_close(read(model, text, segment=segment), torch.cat(hidden, dim=1))


def test_slots_start_pairwise_different() -> None:
    model = make(
        Rmt, shape(segment=8), mem=4, cache=0, aux_weight=0.0, **{**COMMON, "position": "t5"}
    )  # as it is built
    (memory,) = model.init_state(1).memory
    assert torch.pdist(memory).min() > 1


def test_the_auxiliary_loss_is_the_cross_entropy_of_one_more_word() -> None:
    torch.manual_seed(0)
    model = make(Rmt, shape(segment=8), mem=2, cache=0, aux_weight=0.01, **{**COMMON, "position": "t5"}).double()
    text = tokens()[:, :8]
    written: list[Tensor] = []
    model.memory_norm.register_forward_hook(lambda module, inputs, output: written.append(inputs[0]))
    valid = torch.ones_like(text, dtype=torch.bool)
    valid[1] = False  # a lane that has run out is not asked
    aux = model(text, valid, model.init_state(2), torch.tensor([True, True])).aux["memory_word"]
    words = torch.cat([model.head.embedding_VD, model.memory_word_D[None]])
    logits = gain(written[0][0], model.head.norm.weight) @ words.T / 24**0.5
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([30, 30]))
    torch.testing.assert_close(aux, 0.01 * expected)

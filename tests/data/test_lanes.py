"""Lanes against plain loops over the documents."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.data.corpus import TokenDocument
from memexp.data.lanes import Batch, Growth, TrainingLanes, scoring_batches
from memexp.errors import UserError

from ..messages import says

CUTS = ("crop", "chunks")

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=8)


def documents_of(lengths: list[int]) -> list[TokenDocument]:
    """Token p of document d is 1,000 d + p, so that each token tells where it is from."""
    return [
        TokenDocument(f"d{index}", (np.arange(length) + 1000 * index).astype(np.uint32), length)
        for index, length in enumerate(lengths)
    ]


def scored(batches: Iterable[Batch]) -> list[int]:
    """All targets with weight, in the order of lanes inside of batches."""
    return [int(target) for batch in batches for target in batch.targets_BT[batch.weight_BT > 0]]


def same(left: Batch, right: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@given(LENGTHS, st.integers(1, 5), st.integers(1, 9), st.integers(0, 20))
def test_each_token_but_a_documents_first_is_scored_once(
    lengths: list[int], lanes: int, segment: int, max_document: int
) -> None:
    batches = scoring_batches(documents_of(lengths), lanes=lanes, segment=segment, max_document=max_document)
    expected = [
        1000 * index + place
        for index, length in enumerate(lengths)
        for place in range(1, min(length, max_document + 1) if max_document else length)
    ]
    assert sorted(scored(batches)) == expected


@given(LENGTHS, st.integers(1, 5), st.integers(1, 9))
def test_batches_are_consistent(lengths: list[int], lanes: int, segment: int) -> None:
    ended = np.zeros(lanes, dtype=bool)  # lanes whose last segment was padded must begin anew or have run out
    for batch in scoring_batches(documents_of(lengths), lanes=lanes, segment=segment, max_document=0):
        assert batch.tokens_BT.shape == batch.targets_BT.shape == (lanes, segment)
        assert [part.dtype.name for part in batch] == ["int64", "int64", "bool", "float32", "bool", "int64", "int64"]
        for lane in range(lanes):
            count = int(batch.valid_BT[lane].sum())
            assert batch.valid_BT[lane, :count].all()  # padding stands at the end
            assert np.array_equal(batch.weight_BT[lane] > 0, batch.valid_BT[lane])
            assert not batch.tokens_BT[lane, count:].any()
            assert not batch.targets_BT[lane, count:].any()
            if batch.document_B[lane] < 0:
                assert count == 0
                assert not batch.reset_B[lane]
                continue
            assert count > 0
            first = 1000 * batch.document_B[lane] + batch.offset_B[lane]
            assert np.array_equal(batch.tokens_BT[lane, :count], first + np.arange(count))
            assert np.array_equal(batch.targets_BT[lane, :count], first + 1 + np.arange(count))
            assert bool(batch.reset_B[lane]) == (batch.offset_B[lane] == 0)
            assert batch.reset_B[lane] or not ended[lane]
            ended[lane] = count < segment


def test_a_segments_last_target_is_the_next_segments_first_token() -> None:
    first, second, third = scoring_batches(documents_of([10]), lanes=1, segment=4, max_document=0)
    assert first.tokens_BT.tolist() == [[0, 1, 2, 3]]
    assert first.targets_BT.tolist() == [[1, 2, 3, 4]]
    assert second.tokens_BT.tolist() == [[4, 5, 6, 7]]
    assert second.targets_BT.tolist() == [[5, 6, 7, 8]]
    assert third.tokens_BT.tolist() == [[8, 0, 0, 0]]
    assert third.targets_BT.tolist() == [[9, 0, 0, 0]]
    assert [int(batch.offset_B[0]) for batch in (first, second, third)] == [0, 4, 8]


def test_documents_are_scored_in_order_and_lanes_that_ran_out_weigh_nothing() -> None:
    batches = list(scoring_batches(documents_of([4, 9, 4, 1, 4]), lanes=2, segment=3, max_document=0))
    assert [batch.document_B.tolist() for batch in batches] == [[0, 1], [2, 1], [4, 1]]
    batches = list(scoring_batches(documents_of([4, 9]), lanes=2, segment=3, max_document=0))
    assert [batch.document_B.tolist() for batch in batches] == [[0, 1], [-1, 1], [-1, 1]]
    assert [batch.weight_BT[0].sum() for batch in batches] == [3, 0, 0]


@given(LENGTHS.filter(lambda lengths: max(lengths) > 1), st.integers(1, 5), st.integers(1, 9), st.integers(0, 9))
def test_an_epoch_reads_every_document_once(lengths: list[int], lanes: int, segment: int, seed: int) -> None:
    stream = TrainingLanes(documents_of(lengths), lanes=lanes, segment=segment, seed=seed, max_document=0)
    usable = [index for index, length in enumerate(lengths) if length > 1]
    begun: list[int] = []
    while len(begun) < 3 * len(usable):
        batch = next(stream)
        begun += batch.document_B[batch.reset_B].tolist()
    # Visits of one batch stand in the order of lanes, and lanes take visits in that order.
    for epoch in range(3):
        assert sorted(begun[epoch * len(usable) : (epoch + 1) * len(usable)]) == usable


def test_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int) -> list[int]:
        stream = TrainingLanes(documents_of([3] * 20), lanes=1, segment=2, seed=seed, max_document=0)
        return [int(next(stream).document_B[0]) for _ in range(40)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:20] != order(1)[20:]
    assert order(1)[:20] != list(range(20))


def test_epoch_counts_whole_passes() -> None:
    stream = TrainingLanes(documents_of([3, 3, 3]), lanes=1, segment=2, seed=0, max_document=0)
    epochs = []
    for _ in range(7):
        next(stream)
        epochs.append(stream.epoch)
    assert epochs == [0, 0, 0, 1, 1, 1, 2]


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(0, 12),
    st.integers(0, 60),
)
def test_resume_gives_the_same_batches(
    lengths: list[int], lanes: int, segment: int, max_document: int, before: int
) -> None:
    def stream() -> TrainingLanes:
        return TrainingLanes(documents_of(lengths), lanes=lanes, segment=segment, seed=3, max_document=max_document)

    through, resumed = stream(), stream()
    for _ in range(before):
        next(through)
    state = through.state()
    taken = deepcopy(state)
    assert all(type(value) is int for value in [state["next_visit"], *state["visits"], *state["positions"]])
    resumed.restore(state)
    assert resumed.epoch == through.epoch
    for _ in range(30):
        assert same(next(through), next(resumed))
    assert state == taken  # what was taken does not move with the lanes


@given(st.lists(st.integers(2, 60), min_size=1, max_size=6), st.integers(1, 20), st.integers(1, 9), st.integers(0, 5))
def test_crops_are_contiguous_and_inside_their_documents(
    lengths: list[int], max_document: int, segment: int, seed: int
) -> None:
    stream = TrainingLanes(documents_of(lengths), lanes=2, segment=segment, seed=seed, max_document=max_document)
    read: list[list[int]] = [[], []]
    for _ in range(40):
        batch = next(stream)
        for lane in range(2):
            document, count = int(batch.document_B[lane]), int(batch.valid_BT[lane].sum())
            if batch.reset_B[lane]:
                _check_crop(read[lane], lengths, max_document)
                read[lane] = [int(batch.tokens_BT[lane, 0])]
            assert batch.tokens_BT[lane, 0] == read[lane][-1] == 1000 * document + batch.offset_B[lane]
            read[lane] += batch.targets_BT[lane, :count].tolist()


def _check_crop(read: list[int], lengths: list[int], max_document: int) -> None:
    """`read` holds the crop's tokens: one more than it has targets."""
    if not read:
        return
    document = read[0] // 1000
    assert read == list(range(read[0], read[0] + len(read)))
    assert read[-1] - 1000 * document < lengths[document]
    assert len(read) == min(lengths[document], max_document + 1)


def answering(lengths: list[int], share: float, seed: int) -> list[TokenDocument]:
    generator = np.random.default_rng(seed)
    return [each._replace(answers=generator.random(len(each.tokens)) < share) for each in documents_of(lengths)]


def test_only_answers_weigh() -> None:
    document = documents_of([8])[0]._replace(answers=np.array([1, 0, 0, 1, 1, 0, 0, 1], dtype=bool))
    first, second, third = scoring_batches([document], lanes=1, segment=3, max_document=0)
    assert [batch.targets_BT.tolist() for batch in (first, second, third)] == [[[1, 2, 3]], [[4, 5, 6]], [[7, 0, 0]]]
    assert [batch.weight_BT.tolist() for batch in (first, second, third)] == [[[0, 0, 1]], [[1, 0, 0]], [[1, 0, 0]]]
    assert [batch.valid_BT.sum() for batch in (first, second, third)] == [3, 3, 1]


@given(LENGTHS, st.integers(1, 5), st.integers(1, 9), st.integers(0, 20), st.integers(0, 9))
def test_scored_are_the_answers_that_a_document_says(
    lengths: list[int], lanes: int, segment: int, max_document: int, seed: int
) -> None:
    documents = answering(lengths, 0.4, seed)
    batches = scoring_batches(documents, lanes=lanes, segment=segment, max_document=max_document)
    expected = [int(token) for each in documents for token in each.tokens[each.scored(max_document)]]
    assert sorted(scored(batches)) == expected


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 9))
def test_training_weighs_the_same_answers(lengths: list[int], segment: int, seed: int) -> None:
    documents = answering(lengths, 0.4, seed)
    stream = TrainingLanes(documents, lanes=2, segment=segment, seed=seed, max_document=0)
    for _ in range(30):
        batch = next(stream)
        for lane, place in zip(*batch.valid_BT.nonzero(), strict=True):
            document, index = divmod(int(batch.targets_BT[lane, place]), 1000)
            answers = documents[document].answers
            assert answers is not None
            assert batch.weight_BT[lane, place] == answers[index]
        assert not batch.weight_BT[~batch.valid_BT].any()


def test_crops_reach_both_ends_of_a_document() -> None:
    stream = TrainingLanes(documents_of([12]), lanes=1, segment=8, seed=0, max_document=8)
    assert {int(next(stream).offset_B[0]) for _ in range(200)} == {0, 1, 2, 3}


def stream_of(documents: list[TokenDocument], **settings: Any) -> TrainingLanes:
    return TrainingLanes(documents, **{"lanes": 1, "segment": 4, "seed": 0, "max_document": 0, **settings})


def test_the_order_is_that_of_all_runs_before() -> None:
    """Drawn here as it always was: a run that was begun with an older version goes on with the same batches."""
    lengths = [9, 1, 40, 2, 0, 17, 33, 5]
    usable = [0, 2, 3, 5, 6, 7]
    stream = stream_of(documents_of(lengths), segment=100, seed=7, max_document=12)
    for number in range(30):
        epoch, place = divmod(number, len(usable))
        document = np.random.default_rng((7, 0, epoch)).permutation(usable)[place]
        spare = lengths[document] - 12 - 1
        start = np.random.default_rng((7, 1, number)).integers(spare + 1) if spare > 0 else 0
        batch = next(stream)
        assert (batch.document_B[0], batch.offset_B[0]) == (document, start)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda lengths: max(lengths) > 1),
    st.integers(1, 9),
    st.integers(1, 15),
    st.integers(0, 9),
)
def test_an_epoch_of_chunks_scores_every_token_once(
    lengths: list[int], segment: int, max_document: int, seed: int
) -> None:
    documents = documents_of(lengths)
    stream = stream_of(documents, segment=segment, seed=seed, max_document=max_document, cut="chunks")
    targets, longest = epoch_of(stream)
    assert sorted(targets) == sorted(1000 * index + place for index, n in enumerate(lengths) for place in range(1, n))
    assert longest <= max_document


def epoch_of(stream: TrainingLanes) -> tuple[list[int], int]:
    """All targets of the first epoch of a single lane, and the number of those of the longest visit."""
    targets, visits = list[int](), [0]
    while True:
        batch = next(stream)
        if stream.epoch:
            return targets, max(visits)
        if batch.reset_B[0]:
            visits.append(0)
        visits[-1] += int(batch.valid_BT.sum())
        targets += batch.targets_BT[batch.valid_BT].tolist()


def test_chunks_are_visited_in_another_order_each_epoch() -> None:
    stream = stream_of(documents_of([21] * 3), max_document=4, cut="chunks")
    offsets = [int(next(stream).offset_B[0]) for _ in range(30)]
    assert sorted(offsets[:15]) == sorted(offsets[15:]) == sorted([0, 4, 8, 12, 16] * 3)
    assert offsets[:15] != offsets[15:]


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 15), st.sampled_from(CUTS)
)
def test_without_tails_only_what_is_shorter_than_a_segment_is_padded(
    lengths: list[int], segment: int, max_document: int, cut: str
) -> None:
    max_document = max_document or (cut == "chunks")
    stream = stream_of(documents_of(lengths), segment=segment, max_document=max_document, cut=cut, drop_tails=True)
    for _ in range(30):
        batch = next(stream)
        if not batch.valid_BT.all():
            assert batch.reset_B[0]  # it is all of the visit
            rest = lengths[int(batch.document_B[0])] - 1 - int(batch.offset_B[0])
            assert batch.valid_BT.sum() == min(rest, max_document or rest)


def test_without_tails_the_rest_is_read_as_before() -> None:
    stream = stream_of(documents_of([11]), drop_tails=True)
    assert [next(stream).targets_BT.tolist() for _ in range(3)] == [[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[1, 2, 3, 4]]]


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(0, 15),
    st.sampled_from(CUTS),
    st.booleans(),
)
def test_padding_is_what_an_epoch_shows(
    lengths: list[int], segment: int, max_document: int, cut: str, drop_tails: bool
) -> None:
    max_document = max_document or (cut == "chunks")
    settings = {"segment": segment, "max_document": max_document, "cut": cut, "drop_tails": drop_tails}
    stream = stream_of(documents_of(lengths), **settings)
    valid = []
    while not stream.epoch:
        valid.append(next(stream).valid_BT.mean())
    assert stream.padding == pytest.approx(1 - np.mean(valid[:-1]))


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 12),
    st.integers(0, 20),
)
def test_the_lanes_of_all_processes_are_those_of_one(
    lengths: list[int], each: int, ranks: int, max_document: int, before: int
) -> None:
    documents, lanes = documents_of(lengths), each * ranks
    one = stream_of(documents, lanes=lanes, max_document=max_document)
    parts = [
        stream_of(documents, lanes=lanes, max_document=max_document, rank=rank, ranks=ranks) for rank in range(ranks)
    ]
    for step in range(before + 20):
        batch, batches = next(one), [next(part) for part in parts]
        assert same(batch, Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True))))
        assert all(part.state() == one.state() for part in parts)
        if step == before:  # any of them goes on from what any other has saved
            state = parts[-1].state()
            for stream in [one, *parts]:
                stream.restore(state)


def test_thousands_of_lanes_resume_without_drawing_an_epoch_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(documents_of(list(range(2, 12))), lanes=4096)
    for _ in range(5):
        next(stream)
    state, drawn, real = stream.state(), [], np.random.default_rng
    epochs = {number // 10 for number in state["visits"]}
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed))
    stream.restore(state)
    assert len(drawn) <= len(epochs)


def visits_of(stream: TrainingLanes, steps: int) -> list[tuple[int, int]]:
    """The tokens that all lanes had read when each visit began, and the visit's own; visits that `steps` cut short are left out."""
    begun: dict[int, tuple[int, int]] = {}
    visits, read = [], 0
    for _ in range(steps):
        batch = next(stream)
        for lane, count in enumerate(batch.valid_BT.sum(1).tolist()):
            if batch.reset_B[lane]:
                visits += [begun[lane]] if lane in begun else []
                begun[lane] = (read, 0)
            begun[lane] = (begun[lane][0], begun[lane][1] + count)
        read += int(batch.valid_BT.sum())
    return visits


@pytest.mark.parametrize(("lanes", "longest"), [(1, 64), (4, 64), (4, 0), (3, 50)])
def test_crops_grow_and_each_length_reads_about_the_same_share(lanes: int, longest: int) -> None:
    steps, segment = 2000, 4
    tokens = steps * segment * lanes
    growth = Growth(8, tokens)
    stream = stream_of(documents_of([64 + 1] * 9), lanes=lanes, segment=segment, max_document=longest, growth=growth)
    visits = visits_of(stream, steps)
    lengths = sorted({own for _, own in visits})
    assert lengths == [8, 16, 32, longest or 64]
    owns = [own for _, own in visits]
    assert owns[:lanes] == [8] * lanes
    assert owns[-1] == (longest or 64)
    for length in lengths:
        assert sum(own for own in owns if own == length) == pytest.approx(tokens / 4, abs=3 * lanes * 64)
    for (
        read,
        own,
    ) in visits:  # a length begins when its share of the tokens has been read, give or take what lanes are reading
        due = 8 << min(3, 4 * max(0, read - lanes * 64) // tokens)
        late = 8 << min(3, 4 * (read + lanes * 64) // tokens)
        assert min(due, longest or 64) <= own <= min(late, longest or 64)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 40), st.integers(0, 60))
@pytest.mark.hard
def test_growing_crops_resume_and_are_shared_out(lengths: list[int], lanes: int, longest: int, before: int) -> None:
    settings = {"lanes": 2 * lanes, "segment": 3, "seed": 5, "max_document": longest, "growth": Growth(4, 300)}
    through = stream_of(documents_of(lengths), **settings)
    resumed = stream_of(documents_of(lengths), **settings)
    halves = [stream_of(documents_of(lengths), **settings, rank=rank, ranks=2) for rank in range(2)]
    for _ in range(before):
        next(through)
    for stream in (resumed, *halves):
        stream.restore(through.state())
    for _ in range(20):
        batch = next(through)
        assert same(batch, next(resumed))
        parts = zip(*[next(half) for half in halves], strict=True)
        assert same(batch, Batch(*(np.concatenate(arrays) for arrays in parts)))


def test_lanes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, check=says("data.grow_from is 4", "document", "8 tokens", "answers", "expected")):
        stream_of(answering([5, 9], 0.5, 0), growth=Growth(4, 100))
    with pytest.raises(UserError, check=says("lanes is 5", "2 processes", "expected a multiple")):
        stream_of(documents_of([9]), lanes=5, ranks=2)
    with pytest.raises(UserError, check=says("data.drop_tails is true", "answers", "expected")):
        stream_of(answering([9], 0.5, 0), drop_tails=True)
    with pytest.raises(UserError, check=says("data.max_document is 7", "document", "8 tokens", "answers", "expected")):
        stream_of(answering([5, 9], 0.5, 0), max_document=7)
    stream_of(answering([5, 9], 0.5, 0), max_document=8)


def test_nothing_to_predict_is_refused() -> None:
    with pytest.raises(UserError, check=says("none of 2 training documents", "two tokens")):
        TrainingLanes(documents_of([1, 0]), lanes=1, segment=4, seed=0, max_document=0)
    assert list(scoring_batches(documents_of([1, 0]), lanes=1, segment=4, max_document=0)) == []

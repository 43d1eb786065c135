"""What launchers put into the environment, and what follows from it."""

import socket
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.errors import UserError
from memexp.eval.score import shares
from memexp.ranks.exchange import JOIN_SECONDS, join
from memexp.ranks.place import Place, check_number, first_node, place_of, seconds_of, share

from ..messages import says

SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "2", "SLURM_JOB_NODELIST": "gpu[03-04,9],login1",
}  # fmt: skip
"""Of a batch script, which is no task of a step itself."""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        (SLURM, None),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"},
            Place(3, 8, 1, "node7", 29500),
        ),
        (
            SLURM | {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"},
            Place(5, 8, 1, "gpu03", 20_000 + (4711 * 7 + 2) % 20_000),
        ),
        (
            SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "gpu-a"},
            Place(0, 8, 0, "127.0.0.1", 20_000 + (4711 * 7 + 2) % 20_000),
        ),
        (
            {
                "SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1",
                "SUBMITIT_LOCAL_JOB_ID": "99",
            },
            Place(1, 2, 1, "127.0.0.1", 20_000 + 99 * 7),
        ),
    ],
)  # fmt: skip
def test_who_this_process_is(environment: dict[str, str], expected: Place | None) -> None:
    assert place_of(environment) == expected


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
    ],
)
def test_what_no_launcher_says(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        place_of(environment)


def test_as_many_processes_as_were_asked_for() -> None:
    place = Place(0, 4, 0, "", 0)
    check_number(None, 8)
    check_number(place, 0)
    check_number(place, 4)
    with pytest.raises(UserError, match="devices times nodes is 8, but 4 processes were started"):
        check_number(place, 8)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("answer", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("no name")], ids=repr)
def test_a_machine_that_nobody_knows_is_not_waited_for(
    answer: Exception, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise answer

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, check=says("no machine is known", "nowhere", "MASTER_ADDR")):
        join(Place(rank, 2, 0, "nowhere", 29_500), on_gpu=False)


def test_a_port_that_is_in_use_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, check=says(f"port {port} of this machine", "another program", "MASTER_PORT")):
            join(Place(0, 2, 0, "127.0.0.1", port), on_gpu=False)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("", ""), ("one", "one"), ("a,b", "a"), ("gpu[03-05,9],x", "gpu03"), ("n[7]", "n7"), ("n[1-2].site,b", "n1.site")],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@given(st.integers(1, 9), st.integers(1, 9))
def test_shares_of_lanes_are_all_lanes_in_order(ranks: int, each: int) -> None:
    lanes = [*range(ranks * each)]
    found = [lanes[share(len(lanes), rank, ranks)] for rank in range(ranks)]
    assert [len(part) for part in found] == [each] * ranks
    assert [*chain(*found)] == lanes


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 8))
def test_documents_are_shared_out_evenly(sizes: list[int], ranks: int) -> None:
    found = shares(sizes, ranks)
    assert sorted(chain(*found)) == [*range(len(sizes))]
    assert all(part == sorted(part) for part in found)
    loads = [sum(sizes[index] for index in part) for part in found]
    assert max(loads) - min(loads) <= max(sizes, default=0)


@pytest.mark.parametrize("text", ["abc", "-1", "0", "0.0", "nan", "inf", "1e999", "9" * 400, " "])
def test_a_time_in_the_environment_is_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOIN_SECONDS, text)
    with pytest.raises(UserError, check=says(JOIN_SECONDS, "expected a positive number of seconds")):
        seconds_of(JOIN_SECONDS, 600)


def test_a_time_that_is_not_there_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, seconds in (("", 600), ("2.5", 2.5), ("30", 30)):
        monkeypatch.setenv(JOIN_SECONDS, text)
        assert seconds_of(JOIN_SECONDS, 600) == seconds

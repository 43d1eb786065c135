"""Jobs that run at the same time get a GPU each."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from memexp.device import visible_cards
from memexp.launch.processes import JobProcess, run_jobs
from memexp.machine import JOBS


def cards_of(count: int, at_a_time: int, folder: Path, *, devices: int = 1) -> list[str]:
    """What jobs see that all run at the same time, each waiting for the others."""
    every = " && ".join(f"until [ -e {folder}/{number} ]; do sleep 0.01; done" for number in range(count))
    wait = every if at_a_time == count else "true"
    jobs = [
        JobProcess(
            str(number),
            ["sh", "-c", f"touch {folder}/{number}; {wait}; echo ${{CUDA_VISIBLE_DEVICES-all}}"],
            folder / f"{number}.log",
            devices=devices,
        )
        for number in range(count)
    ]
    run_jobs(jobs, at_a_time=at_a_time, show=lambda: None)
    assert [job.state for job in jobs] == ["done"] * count
    return [job.output.strip() for job in jobs]


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("memexp.launch.processes.POLL_SECONDS", 0.01)


@pytest.mark.parametrize(("count", "cards"), [(8, 8), (4, 8), (8, 4), (3, 1), (2, 0)])
def test_each_job_gets_the_card_that_fewest_have(
    count: int, cards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    seen = Counter(cards_of(count, count, tmp_path))
    if not cards:
        assert seen == {"all": count}
    else:
        assert set(seen) == {str(number) for number in range(min(count, cards))}
        assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize(("count", "cards", "devices"), [(4, 8, 2), (2, 4, 3), (2, 2, 4)])
def test_each_job_gets_as_many_cards_as_it_takes(
    count: int, cards: int, devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    found = [job.split(",") for job in cards_of(count, count, tmp_path, devices=devices)]
    assert [len({*job}) for job in found] == [min(devices, cards)] * count
    taken = Counter(card for job in found for card in job)
    assert len(taken) == min(cards, count * devices)
    assert max(taken.values()) - min(taken.values()) <= 1


def test_one_job_at_a_time_sees_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert cards_of(2, 1, tmp_path) == ["all", "all"]


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 3, ["0", "1", "2"]),
        ("4,6", 2, ["4", "6"]),
        ("GPU-8932f937, MIG-1/2/0", 2, ["GPU-8932f937", "MIG-1/2/0"]),
        ("2,9", 1, ["2"]),  # the second does not exist
        ("", 0, []),
    ],
)
def test_cards_are_named_as_the_environment_names_them(
    named: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_cards() == expected


def test_each_job_is_told_how_many_there_are(tmp_path: Path) -> None:
    jobs = [JobProcess(str(number), ["sh", "-c", f"echo ${JOBS}"], tmp_path / f"{number}.log") for number in range(3)]
    run_jobs(jobs, at_a_time=2, show=lambda: None)
    assert [job.output.strip() for job in jobs] == ["2"] * 3

"""What fits into a device, in the table of the documents."""

from dataclasses import replace
from pathlib import Path

import pytest

from memexp.cli.commands.bench import largest_runs
from memexp.cost import fitting
from memexp.cost.table import on_device

from ..tiny import configure

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.hard
def test_the_documents_have_the_table_that_the_command_prints() -> None:
    text = (CHECKOUT / "conf" / "README.md").read_text(encoding="utf-8")
    assert fitting.table(largest_runs()) in text


def test_one_more_lane_or_a_larger_memory_does_not_fit() -> None:
    config = configure("arch=knn")
    needed = on_device(replace(config, lanes=32, mem=16_384)) / fitting.SHARE / 1e9
    for spare, cell in ((1.001, "16,384 x 32"), (0.999, "8,192 x 32"), (0.001, "none")):
        [_, _, row] = fitting.table({"knn": config}, [needed * spare]).splitlines()
        assert row.split(" | ")[1].removesuffix(" |") == cell
    assert fitting.fits(replace(config, lanes=32, mem=16_384), needed * 1.001e9)
    assert not fitting.fits(replace(config, lanes=32, mem=16_384), needed * 0.999e9)

"""Differences are of runs in the default root, so that no command has to name it."""

from pathlib import Path

import pytest

from memexp.store import folder


@pytest.fixture(autouse=True)
def _in_the_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "find_root", lambda _: tmp_path)

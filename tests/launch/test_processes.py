"""How a job tells its run folder."""

import json
from pathlib import Path


def test_announce_does_nothing_outside_of_a_sweep(empty, monkeypatch) -> None:
    from memexp.launch.processes import announce

    monkeypatch.delenv("MEMEXP_JOB_FILE", raising=False)
    announce(Path("/a/run"))
    assert list(empty.iterdir()) == []
    monkeypatch.setenv("MEMEXP_JOB_FILE", str(empty / "0.json"))
    announce(Path("/a/run"))
    assert json.loads((empty / "0.json").read_text()) == {"run": "/a/run"}

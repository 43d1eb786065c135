"""What a job of a sweep is given."""

import sys

import pytest

from memexp.config.words import quote
from memexp.launch.launcher import JobLauncher


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of all jobs, in place of which a program runs that does nothing."""
    found: list[list[str]] = []
    command = JobLauncher._command

    def keep(self: JobLauncher, overrides: list[str]) -> list[str]:
        found.append(command(self, overrides))
        return ["true"]

    monkeypatch.setattr(JobLauncher, "_command", keep)
    return found


def test_jobs_of_the_real_command_inherit_the_config_folder(memexp, empty, commands) -> None:
    (empty / "more" / "tracker").mkdir(parents=True)
    (empty / "more" / "tracker" / "mine.yaml").write_text("defaults: [base, _self_]\nname: none\nproject: mine\n")
    assert (
        memexp("train", "-m", "root=.", "--config-dir", "more", "tracker=mine", "seed=3", "hydra.sweep.dir=there").code
        == 0
    )
    assert commands[0][:5] == [sys.executable, "-P", "-m", "memexp", "train"]
    assert memexp(*commands[0][4:]).settings[0].tracker.project == "mine"


@pytest.mark.hard
def test_a_job_gets_its_texts_as_a_user_types_them(memexp, empty, commands) -> None:
    tags = ["it's, ${x}", "[d", r"back\slash\\"]
    typed = ",".join(quote(tag, always=True) for tag in tags)
    assert memexp("train", "-m", "root=.", f"tag={typed}").code == 0
    assert [memexp(*words[4:]).settings[0].tag for words in commands] == tags

"""What a job of a sweep is given."""

import sys

from memexp.launch.local_launcher import LocalLauncher


def test_jobs_of_the_real_command_inherit_the_config_folder(memexp, empty, monkeypatch) -> None:
    (empty / "more" / "tracker").mkdir(parents=True)
    (empty / "more" / "tracker" / "mine.yaml").write_text("defaults: [base, _self_]\nname: none\nproject: mine\n")
    commands = []
    command = LocalLauncher._command

    def keep(self: LocalLauncher, overrides: list[str]) -> list[str]:
        commands.append(command(self, overrides))
        return ["true"]

    monkeypatch.setattr(LocalLauncher, "_command", keep)
    assert (
        memexp("train", "-m", "root=.", "--config-dir", "more", "tracker=mine", "seed=3", "hydra.verbose=false").code
        == 0
    )
    assert commands[0][:5] == [sys.executable, "-P", "-m", "memexp", "train"]
    assert memexp(*commands[0][4:]).settings[0].tracker.project == "mine"

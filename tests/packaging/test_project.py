"""The project's files agree with each other: packages, pins, make's targets."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import yaml

import memexp

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
TARGETS = {
    "help", "install", "demo", "test", "hard", "lint", "types", "format", "clean", "report", "bench", "bench-peers",
    "gpu-check", "kernels", "two-gpus", "published",
}  # fmt: skip


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LINKS = {"memexp/cli": "../cli", "memexp/conf": "../conf", "memexp/published": "../results/published"}


def test_the_folders_at_the_top_are_links_inside_the_package() -> None:
    assert {name: str((CHECKOUT / name).readlink()) for name in LINKS} == LINKS


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for top in ("memexp", "cli", "conf") for path in (CHECKOUT / top).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_constraints_pin_every_dependency() -> None:
    lines = [
        line
        for line in (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {plain(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    assert {plain(re.split(r"[<>=\[]", line)[0]) for line in wanted} - set(pinned) == set()
    installed = {plain(each.metadata["Name"]): each.version.partition("+")[0] for each in distributions()}
    assert {name: version for name, version in installed.items() if pinned.get(name, version) != version} == {}


def test_hydra_is_held_below_the_next_minor_release() -> None:
    assert {"hydra-core>=1.3.8,<1.4", "omegaconf>=2.3,<2.4"} <= set(PROJECT["project"]["dependencies"])


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=CHECKOUT, text=True, capture_output=True, check=True
    )
    assert {line.split()[1] for line in done.stdout.splitlines()} == TARGETS
    bare = subprocess.run(["make", "--no-print-directory"], cwd=CHECKOUT, text=True, capture_output=True, check=True)
    assert bare.stdout == done.stdout


def test_make_demo_and_test_install_first(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    for target in ("demo", "test", "lint", "types", "report", "bench"):
        done = subprocess.run(["make", "--dry-run", target], cwd=tmp_path, text=True, capture_output=True, check=True)
        assert "-m venv .venv" in done.stdout
        assert "-c constraints.txt torch" in done.stdout


def test_version_and_licence_agree() -> None:
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == memexp.__version__
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (CHECKOUT / "LICENSE").read_text(encoding="utf-8")


def test_the_workflow_and_the_hooks_run_what_make_runs() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    commands = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    targets = {command.removeprefix("make ") for command in commands if command.startswith("make ")}
    assert targets <= TARGETS
    assert commands - {f"make {target}" for target in targets} == {".ci/run"}
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"].split()[:2] for repository in config["repos"] for hook in repository["hooks"]]
    lines = (CHECKOUT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin").splitlines()
    made = [line.split()[:2] for line in lines if line.startswith("\t")]
    assert len(hooks) == 3
    assert [hook for hook in hooks if hook not in made] == []


def test_the_changelog_names_this_version_and_modules_that_exist() -> None:
    changes = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, newest, *_ = re.findall(r"^## (.+)$", changes, re.MULTILINE)
    assert (unreleased, newest) == ("[Unreleased]", memexp.__version__)
    modules = re.findall(r"`(memexp(?:\.\w+)+)`", " ".join(re.findall(r"^  \|.*\|(.*)\|$", changes, re.MULTILINE)))
    assert [name for name in modules if find_spec(name) is None] == []
    assert len(modules) > 15

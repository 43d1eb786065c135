"""What is installed: the wheel holds every module and every configuration file, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED_AS = {
    "memexp": "memexp",
    "cli": "memexp/cli",
    "conf": "memexp/conf",
    "results/published": "memexp/published",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in INSTALLED_AS:
        shutil.copytree(CHECKOUT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in CHECKOUT.iterdir():
        if path.is_file():
            shutil.copy(path, folder / "source")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        ".",
    ]
    done = subprocess.run(command, cwd=folder / "source", text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_yaml_file_and_template(wheel: Path) -> None:
    sources = set()
    for folder, target in INSTALLED_AS.items():
        for path in (CHECKOUT / folder).rglob("*"):
            if (
                path.suffix in (".py", ".yaml", ".md", ".typed", ".html", ".css", ".js")
                and "__pycache__" not in path.parts
            ):
                sources.add(f"{target}/{path.relative_to(CHECKOUT / folder)}")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == sources
    assert {"memexp/cli/main.py", "memexp/conf/arch/knn.yaml", "memexp/conf/train.yaml", "memexp/py.typed"} <= packed


def test_the_program_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "memexp = memexp.cli.main:main" in archive.read(entry).decode()
        assert any(name.endswith("licenses/LICENSE") for name in names)
    program = (
        "import sys; sys.path.insert(0, 'site'); import memexp; assert 'site' in memexp.__file__, memexp.__file__; "
        "from memexp.cli.main import main; sys.exit(main(['train', '--cfg', 'job', 'arch=knn', 'mem=64k']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mem: 65536" in done.stdout
    program = program.replace("['train', '--cfg', 'job', 'arch=knn', 'mem=64k']", "['table', 'rmt/equations']")
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.930 ± 0.020" in done.stdout

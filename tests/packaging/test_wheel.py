"""What is installed: the wheel holds every module and every configuration file, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import memexp

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED_AS = {
    "memexp": "memexp",
    "cli": "memexp/cli",
    "conf": "memexp/conf",
    "results/published": "memexp/published",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in a folder named memexp, so that nothing is built in the checkout itself."""
    folder = tmp_path_factory.mktemp("parent") / "memexp"
    for name in INSTALLED_AS:
        shutil.copytree(CHECKOUT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in CHECKOUT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clone."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, "."], clone)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def editable(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that an editable install unpacks: where the clone is."""
    folder = tmp_path_factory.mktemp("editable")
    program = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    run([sys.executable, "-c", program, str(folder)], clone)
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


@pytest.mark.hard
def test_the_program_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "memexp = memexp.__main__:run" in archive.read(entry).decode()
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


@pytest.mark.hard
def test_a_wheel_of_a_source_archive_is_the_same(clone: Path, wheel: Path, tmp_path: Path) -> None:
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), "."], clone)
    [again] = tmp_path.glob("*.whl")
    contents = []
    for path in (wheel, again):
        with zipfile.ZipFile(path) as archive:
            contents.append({item.filename: item.CRC for item in archive.infolist()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_the_package_is_seen_from_every_folder(
    kind: str, clone: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """From a clone, from the folder that a clone named memexp lies in, and from elsewhere."""
    (clone / "data").mkdir(exist_ok=True)  # of corpora, no part of the package
    environment = tmp_path / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
    [site] = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        archive.extractall(site)
    program = "import memexp.cli.main, memexp.conf, memexp.data; print(memexp.__version__, *memexp.data.__path__)"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for folder in (clone, clone.parent, tmp_path):
        command = [environment / "bin" / "python", "-c", program]
        done = subprocess.run(command, cwd=folder, env=variables, text=True, capture_output=True)
        package = clone / "memexp" if kind == "editable" or folder == clone else site / "memexp"
        assert (done.stdout, done.stderr) == (f"{memexp.__version__} {package / 'data'}\n", "")

"""Imports go one way, start-up stays light, and every import is of something that is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LIGHT_BASE = (
    "memexp",
    "memexp.errors",
    "memexp.machine",
    "memexp.lock",
    "memexp.files",
    "memexp.wording",
    "memexp.terminal",
)
BASE = (*LIGHT_BASE, "memexp.device", "memexp.regions")
LAYERS = [
    BASE, ("memexp.ranks",), ("memexp.config",), ("memexp.data",), ("memexp.store",), ("memexp.model",), ("memexp.train",), ("memexp.eval",),
    ("memexp.cost",), ("memexp.launch",), ("memexp.report",), ("memexp.experiment",), ("memexp.api",), ("memexp.bench",),
    ("memexp.cli", "memexp.__main__"),
]  # fmt: skip
LIGHT_ROOMS = ("config", "data", "store", "launch", "experiment", "report", "cli")
"""Rooms that never load torch when they are imported."""
NEVER_TORCH = ("config", "data", "store", "launch", "experiment", "report")
"""Rooms that name torch nowhere but inside functions."""
DISTRIBUTIONS = {
    "hydra": "hydra-core", "yaml": "pyyaml", "faiss": "faiss-cpu", "markdown_it": "markdown-it-py",
    "triton": "torch",  # a build for CUDA requires the Triton that fits it
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the program by its name when installed."""
    found = {}
    for folder, package in (("memexp", "memexp"), ("cli", "memexp.cli"), ("conf", "memexp.conf")):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):  # does not follow links
            parts = path.relative_to(CHECKOUT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def layer(module: str) -> int:
    """The number of the layer that a module is in; -1 for what belongs to none."""
    if module in BASE:
        return 0
    owners = [
        number
        for number, names in enumerate(LAYERS)
        if any(module == name or module.startswith(f"{name}.") for name in names if name != "memexp")
    ]
    return owners[0] if owners else -1


def test_the_order_is_the_documented_one() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.search(r"Imports go in one direction:\n`([^`]+)`", text)
    assert told is not None
    layers = [["memexp", *(f"memexp.{name}" for name in told[1].split(" <- ")[0].split(", "))]]
    layers += [[f"memexp.{name.strip()}"] for name in told[1].replace("\n", " ").split(" <- ")[1:]]
    assert layers == [[name for name in names if name != "memexp.__main__"] for names in LAYERS]


def back_edges(files: dict[str, Path]) -> list[str]:
    """Imports of what comes later than the importing module; the package itself shows what `memexp.api` has."""
    edges = [(module, target) for module, path in files.items() for target in imported(path) & set(files)]
    edges = [
        (module, target)
        for module, target in edges
        if not (module == "memexp" and f"{target}.".startswith("memexp.api."))
    ]
    return sorted(f"{module} -> {target}" for module, target in edges if layer(target) > layer(module))


def test_imports_go_one_way() -> None:
    files = modules()
    assert {name for name in files if layer(name) < 0 and not name.startswith("memexp.conf")} == set()
    assert back_edges(files) == []


def test_a_back_edge_would_be_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def late():\n    from memexp.cli import main\n")
    files = modules() | {"memexp.data.bad": bad}
    assert back_edges(files) == ["memexp.data.bad -> memexp.cli", "memexp.data.bad -> memexp.cli.main"]


def circles(files: dict[str, Path]) -> list[list[str]]:
    """Modules that import one another in a ring, at the top or inside functions; a package is not what lies in it."""
    graph = networkx.DiGraph()
    for module, path in files.items():
        graph.add_edges_from((module, target) for target in imported(path) & set(files) if target != module)
    packages = {name for name, path in files.items() if path.name == "__init__.py"}
    graph.remove_nodes_from(packages)
    return sorted(sorted(ring) for ring in networkx.strongly_connected_components(graph) if len(ring) > 1)


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert circles(modules()) == []


def test_a_circle_inside_a_layer_would_be_seen(tmp_path: Path) -> None:
    for name, other in (("here", "there"), ("there", "here")):
        (tmp_path / f"{name}.py").write_text(f"def late():\n    from memexp.data.{other} import something\n")
    made = {f"memexp.data.{name}": tmp_path / f"{name}.py" for name in ("here", "there")}
    assert circles(modules() | made) == [["memexp.data.here", "memexp.data.there"]]


@pytest.mark.parametrize("room", [*LIGHT_ROOMS, ""])
def test_light_rooms_never_load_torch(room) -> None:
    """In one process a room: importing its modules must not load torch."""
    names = [name for name in modules() if layer(name) >= 0 and not name.endswith("__main__")]
    chosen = [name for name in names if (f"{name}.".startswith(f"memexp.{room}.") if room else name in LIGHT_BASE)]
    assert chosen
    program = f"import importlib, sys\nfor name in {chosen}:\n    importlib.import_module(name)\n    assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, text=True, capture_output=True)
    assert done.stderr == ""


def test_light_rooms_name_torch_only_inside_functions() -> None:
    loud = []
    for name, path in modules().items():
        if name.startswith(tuple(f"memexp.{room}." for room in NEVER_TORCH)):
            loud += [name for found in imported(path) if found.split(".")[0] == "torch"]
    assert loud == []


@pytest.mark.hard
def test_every_module_imports() -> None:
    names = [name for name in modules() if not name.endswith("__main__")]
    program = f"import importlib\nfor name in {names}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=CHECKOUT, text=True, capture_output=True)
    assert done.stderr == ""


def test_every_import_is_declared_or_built_in() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for extra, lines in project["optional-dependencies"].items() if extra != "dev" for line in lines]
    declared = {re.split(r"[<>=\[;]", line)[0].lower() for line in [*project["dependencies"], *optional]}
    elsewhere = "memexp.bench.others.peer_step"  # runs in the peers' environment
    ours = {name: path for name, path in modules().items() if name != elsewhere}
    roots = {target.split(".")[0] for path in ours.values() for target in imported(path)}
    outside = roots - set(sys.stdlib_module_names) - {"memexp"}
    assert {DISTRIBUTIONS.get(name, name).lower() for name in outside} - declared == set()
    assert {DISTRIBUTIONS.get(name, name).lower() for name in outside} >= {"torch", "rich", "hydra-core"}

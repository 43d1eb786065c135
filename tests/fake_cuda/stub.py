"""The part of a CUDA device that torch asks from C++, compiled with g++. It must be loaded before the first backward pass.

This module does not import torch, so that a process can load the stub first.
"""

import ctypes
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("stub.cpp")
BUILT = Path(__file__).resolve().parents[2] / "build" / "fake_cuda"


def build() -> Path:
    """Compile the stub for the installed torch, if that was not yet done."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    torch = Path(next(iter(spec.submodule_search_locations)))
    version = (torch / "version.py").read_text(encoding="utf-8").split("__version__ = '")[1].split("'")[0]
    built = BUILT / f"torch-{version}.so"
    if not built.exists() or built.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILT.mkdir(parents=True, exist_ok=True)
        own = built.with_suffix(f".{os.getpid()}")  # another process may compile it too
        includes = [f"-I{torch / 'include' / below}" for below in ("", "torch/csrc/api/include")]
        libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}", "-Wl,--no-as-needed"]
        command = ["g++", "-shared", "-fPIC", "-O0", "-std=c++20", *includes, str(SOURCE), "-o", str(own), *libraries]
        subprocess.run(command, check=True)
        own.replace(built)
    return built


def load(built: Path) -> None:
    """Give this process a CUDA device that is not there."""
    ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)

"""torch.compile for the parts of layers that are pure arithmetic.

The compiled parts are the same in every architecture and layer: the projections before attention, and everything after it.
State, memory, search and resets are not compiled. So the compiler cannot copy or cache them or fix a decision too early,
and a new memory length causes no new compilation. Compiling a whole model as one graph would take minutes on a CPU, break
the graph wherever the host reads a count, and keep a copy of every ring that is written in place.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import nn

from memexp.config.field import AUTO
from memexp.config.train import TrainConfig
from memexp.device import describe
from memexp.errors import UserError
from memexp.model.segment import SegmentModel
from memexp.regions import part
from memexp.terminal import warn

OLDEST = (7, 0)
"""The compute capability from which on Triton makes kernels for an NVIDIA GPU."""


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile needs on this device and is missing; None if it can compile.

    Both compilers build modules of Python: Triton a launcher for each kernel, in C, and the other its kernels in C++.
    """
    if device.type == "cuda" and not find_spec("triton"):
        return "the package triton"
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST:
            has = f"{describe(device, asked='cuda').name} has {'.'.join(map(str, capability))}"
            return f"a GPU of compute capability {'.'.join(map(str, OLDEST))} or later ({has})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return f"Python's headers ({sysconfig.get_path('include')}/Python.h)"
    if device.type == "cuda":
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cc"]
    else:
        compilers = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
    return (
        None
        if any(map(shutil.which, compilers))
        else f"a C{'' if device.type == 'cuda' else '++'} compiler ({compilers[0]})"
    )


def pays_to_compile(model: SegmentModel, device: torch.device) -> bool:
    """What `compile=auto` means: on a GPU, unless shapes change, which would be compiled again and again.

    On a CPU in fp32, products take nearly all the time, and they stay what they are.

    Compiled code is not captured in CUDA graphs (`mode="reduce-overhead"`). A compiled part has only a few kernels, between
    attention, search and memory that are not compiled: a graph of it would save few launches and first copy each activation
    to the address for which it was captured. A graph of a whole step would save most, but it would need that caches and counts
    stay at one address, and that nothing in a step depends on the host; here each step makes new ones, and the end of
    documents, gauges, checkpoints and what leaves to the host are decided there.
    """
    return device.type == "cuda" and model.fixed_shapes


def asked_to_compile(model: SegmentModel, config: TrainConfig, device: torch.device) -> bool:
    """Whether the settings want the layers compiled; nothing may be able to.

    What is compiled cannot gather weights that are shared out.
    """
    chosen = config.compile == AUTO and not config.shard_weights and pays_to_compile(model, device)
    return config.compile == "true" or chosen


def compiles(model: SegmentModel, config: TrainConfig, device: torch.device) -> bool:
    """Whether the layers are compiled: it is wanted, there is a compiler, and there is something to compile."""
    wanted = asked_to_compile(model, config, device)
    return wanted and not missing_compiler(device) and bool(compilable_methods(model))


def compilable_methods(model: SegmentModel) -> list[tuple[nn.Module, str, str]]:
    """The methods that modules declare as `compilable`: each with its module and the part of a profile that it is."""
    return [
        (module, method, name)
        for module in model.modules()
        for method, name in getattr(type(module), "compilable", {}).items()
    ]


def is_compiled(model: SegmentModel) -> bool:
    """Whether a method is compiled, or will be when it is called."""
    return any(method in vars(module) for module, method, _ in compilable_methods(model))


def compile_layers(model: SegmentModel, *, backend: str = "inductor", asked: bool = True) -> int:
    """Compile the methods that modules declare as `compilable`, each when it is first called.

    Parameters stay as they are, and results too, to rounding.

    Args:
        asked: whether the user asked for it. If not, a fault of the compiler is told in one line, and all methods are again
            what they were; otherwise it is a `UserError`.

    Returns:
        How many methods will be compiled.
    """
    methods = compilable_methods(model)

    def undo() -> None:
        for module, method, _ in methods:
            delattr(module, method)

    for module, method, name in methods:
        _compile(module, method, name, backend, None if asked else undo)
    return len(methods)


def _reason(error: Exception) -> str:
    """The line of an error that says most: of a compiler's output, the first that names an error."""
    inner = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else type(inner).__name__)


def _of_the_tools(error: Exception) -> bool:
    """Whether a compiler that torch.compile called has failed, or could not be called."""
    from torch._inductor.exc import CppCompileError, GPUTooOldForTriton, InvalidCxxCompiler, TritonMissing

    tools = CppCompileError | GPUTooOldForTriton | InvalidCxxCompiler | TritonMissing | CalledProcessError | OSError
    return isinstance(getattr(error, "inner_exception", error), tools)


def _compile(module: nn.Module, method: str, name: str, backend: str, undo: Callable[[], None] | None) -> None:
    from torch._dynamo.exc import TorchDynamoException  # late: it takes seconds

    # the same random numbers as without compilation
    options: Any = {"fallback_random": True} if backend == "inductor" else None
    compiled = torch.compile(getattr(module, method), backend=backend, options=options)

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            with part(name):
                return compiled(*arguments, **named)
        except (TorchDynamoException, CalledProcessError, OSError) as error:
            if undo is None:
                if not _of_the_tools(error):
                    raise
                raise UserError(
                    f"torch.compile cannot build what it generates: {_reason(error)}; expected a compiler that works and can read "
                    "Python's headers, or compile=false. Likely cause: CXX or CC names another program, or a package of Python or of "
                    "the compiler is missing"
                ) from error
            warn(
                f"compile=auto has no effect: torch.compile fails ({_reason(error)}); compile=true stops there instead"
            )
        undo()
        return getattr(module, method)(*arguments, **named)

    setattr(module, method, call)

"""Checkpoints: everything that a run needs to continue as if it had never stopped, in plain tensors, numbers and lists."""

import hashlib
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from memexp.errors import UserError
from memexp.files import unreadable, write_atomically
from memexp.machine import why_full

KEPT = 2
"""How many of the newest checkpoints are kept while a run trains."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint with the checksum of its content, whole or not at all."""

    def write(file: IO[bytes]) -> None:
        try:
            torch.save(content | {"checksum": digest(content)}, file)
        except RuntimeError as error:
            # torch reports that the file is too short and hides the real error, such as a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    try:
        path.parent.mkdir(exist_ok=True)  # without its parents: a run folder that was deleted stays deleted
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; expected the folder of a run{why_full(error, path)}"
        ) from error
    write_atomically(path, write, make_folder=False)


def load(path: Path, *, identity: str, remedy: str) -> dict[str, Any]:
    """Read a checkpoint; only tensors, numbers, texts, lists and dicts are accepted.

    Args:
        identity: the hash of the run's identity, which the checkpoint must have.
        remedy: what the user can do if the file is damaged or missing.

    Raises:
        UserError: the file is missing, cut off or damaged, or a run with other settings wrote it.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no ordinary file")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected the weights of a trained run; {remedy}") from error
    except PermissionError as error:
        raise unreadable(path, error, expected="the weights of a trained run") from error
    except Exception as error:  # a damaged byte can make torch's reader raise any exception
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read; expected a whole checkpoint of plain tensors and "
            f"numbers. Likely cause: it is cut off or damaged; {remedy}"
        ) from error
    expected = content.pop("checksum", None) if isinstance(content, dict) else None
    if expected is not None and expected != (seen := digest(content)):  # older files have none
        raise UserError(
            f"{path} is damaged: its content has the checksum {seen[:8]}; expected {str(expected)[:8]}, the checksum written in "
            f"it. Likely cause: a fault of the disk or of a copy; {remedy}"
        )
    if not isinstance(content, dict) or content.get("identity") != identity:
        seen = str(content.get("identity"))[:8] if isinstance(content, dict) else "none"
        raise UserError(
            f"{path} belongs to the settings {seen}, but this run has the settings {identity[:8]}; expected the same. "
            "Likely cause: it was copied from another run, or identity.json was edited"
        )
    return content


def digest(content: Any) -> str:
    """The SHA-256 of tensors, numbers and texts in lists and dicts, in hexadecimal; torch does not check what it loads."""
    found = hashlib.sha256()
    _add(content, found)
    return found.hexdigest()


def _add(content: Any, found: Any) -> None:
    if isinstance(content, Tensor):
        found.update(f"{content.dtype} {tuple(content.shape)}".encode())
        if content.numel():
            found.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(content, dict):
        found.update(f"{{{len(content)}".encode())
        for name, value in content.items():
            found.update(repr(name).encode())
            _add(value, found)
    elif isinstance(content, list | tuple):
        found.update(f"[{len(content)}".encode())
        for value in content:
            _add(value, found)
    else:
        found.update(repr(content).encode())


def part_of(path: Path, rank: int, ranks: int) -> Path:
    """Where one of several processes writes the state of its lanes, beside the checkpoint that holds what all share."""
    return path.with_name(f"{path.stem}.{rank}-of-{ranks}.pt")


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step; None if there is none."""
    paths = _all(folder)
    return paths[-1] if paths else None


def forget_old(folder: Path, *, keep: int = KEPT) -> None:
    """Delete all but the `keep` newest checkpoints."""
    paths = _all(folder)
    for path in paths[: len(paths) - keep]:
        path.unlink()
    forget_lost_parts(folder)


def forget_lost_parts(folder: Path) -> None:
    """Delete parts whose checkpoint is not there: it was deleted, or never written because a process ended before."""
    for part in folder.glob("step-*.*-of-*.pt"):
        if not part.with_name(f"{part.name.split('.')[0]}.pt").exists():
            part.unlink()


def _all(folder: Path) -> list[Path]:
    """All checkpoints, the oldest first."""
    return sorted((path for path in folder.glob("step-*.pt") if path.stem[5:].isdecimal()), key=_step)


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the random generators that training uses."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_random_state(states: list[Tensor], device: torch.device) -> None:
    """Set the random generators to states that `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))

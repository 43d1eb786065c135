"""Checkpoints: everything that a run needs to continue as if it had never stopped, in plain tensors, numbers and lists."""

from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from memexp.errors import UserError
from memexp.files import write_atomically

KEPT = 2
"""How many of the newest checkpoints are kept while a run trains."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""

    def write(file: IO[bytes]) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch reports that the file is too short and hides the real error, such as a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    write_atomically(path, write)


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
    except Exception as error:  # a damaged byte can make torch's reader raise any exception
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read; expected a whole checkpoint of plain tensors and "
            f"numbers. Likely cause: it is cut off or damaged; {remedy}"
        ) from error
    if not isinstance(content, dict) or content.get("identity") != identity:
        seen = str(content.get("identity"))[:8] if isinstance(content, dict) else "none"
        raise UserError(
            f"{path} belongs to the settings {seen}, but this run has the settings {identity[:8]}; expected the same. "
            "Likely cause: it was copied from another run, or identity.json was edited"
        )
    return content


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step; None if there is none."""
    paths = sorted((path for path in folder.glob("step-*.pt") if path.stem[5:].isdecimal()), key=_step)
    return paths[-1] if paths else None


def forget_old(folder: Path, *, keep: int = KEPT) -> None:
    """Delete all but the `keep` newest checkpoints."""
    paths = sorted((path for path in folder.glob("step-*.pt") if path.stem[5:].isdecimal()), key=_step)
    for path in paths[: len(paths) - keep]:
        path.unlink()


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

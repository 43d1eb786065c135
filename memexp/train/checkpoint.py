"""Checkpoints: everything that a run needs to go on as if it had never stopped, in plain tensors, numbers and lists."""

from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from memexp.errors import UserError
from memexp.files import write_atomically

KEPT = 2
"""Newest checkpoints that stay while a run trains."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""

    def write(file: IO[bytes]) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch notices that the file has come out short, and hides the full disk that was the reason
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    write_atomically(path, write)


def load(path: Path, *, identity: str, remedy: str) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors, numbers, texts, lists and dicts is accepted.

    Args:
        remedy: what the user can do when it is damaged or gone.

    Raises:
        UserError: it is cut off or damaged, or was written by a run with other settings.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected the weights of a run that was trained: {remedy}") from error
    except Exception as error:  # a damaged byte can lead torch's reader into any
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read; expected a whole checkpoint of plain tensors and "
            f"numbers. It is cut off or damaged: {remedy}"
        ) from error
    if not isinstance(content, dict) or content.get("identity") != identity:
        found = str(content.get("identity"))[:8] if isinstance(content, dict) else "none"
        raise UserError(
            f"{path} belongs to the settings {found}, this run's are {identity[:8]}; expected the same. "
            "It was copied from another run, or identity.json was edited"
        )
    return content


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step, None if there is none."""
    found = sorted(folder.glob("step-*.pt"), key=_step)
    return found[-1] if found else None


def forget_old(folder: Path, *, keep: int = KEPT) -> None:
    """Delete all but the newest checkpoints."""
    found = sorted(folder.glob("step-*.pt"), key=_step)
    for path in found[: len(found) - keep]:
        path.unlink()


def random_state(device: torch.device) -> list[Tensor]:
    """The generators that training draws from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_random_state(states: list[Tensor], device: torch.device) -> None:
    """Set the generators to what `random_state` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))

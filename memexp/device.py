"""Which device a model is on."""

import torch

from memexp.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device that `device=` asks for.

    Raises:
        UserError: CUDA is asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device is cuda, but torch sees no CUDA device; expected a GPU and a CUDA build of torch "
            f"(this is {torch.__version__}), or device=cpu"
        )
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)

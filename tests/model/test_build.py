"""Settings of somebody else's run folder can name a model, and no other code."""

from dataclasses import replace
from typing import Any

import pytest

from memexp.config.compose import compose, typed
from memexp.errors import UserError
from memexp.model.build import build_model

from ..messages import says


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "memexp.files.write_text",
        "memexp.data.sources.Files",
        "memexp.model.xl",
        "memexp.model.none.X",
        "memexp.model.build.build_model",
        "memexp.model.transformer.shape.Shape",
        "memexp.model.knn.Knn",
        "memexp.model.slot_memory.block_recurrence.BlockRecurrence",
        "Xl",
        "",
    ],
)
def test_only_models_are_built(target: str) -> None:
    config: Any = typed(compose("train", ["arch=xl", "size=tiny", "data=tiny"]))
    edited = replace(config, arch=replace(config.arch, _target_=target))
    with pytest.raises(
        UserError,
        check=says(f"arch._target_ is '{target}'", "expected memexp.model.xl.Xl"),
    ):
        build_model(edited, vocabulary=10)

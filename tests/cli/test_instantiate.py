"""Which code a configuration can name."""

from typing import Any

import pytest

from memexp.config.instantiate import architectures, instantiate
from memexp.errors import UserError


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "memexp.files.write_text",
        "memexp.data.sources.Files",
        "memexp.model.knn",
        "Knn",
        "",
        None,
        ["os.system"],
    ],
)
def test_only_architectures_are_built(target: Any) -> None:
    with pytest.raises(
        UserError, match=r"arch._target_ is .*; expected one of memexp.model.vanilla.Vanilla"
    ) as refused:
        instantiate({"_target_": target})
    assert "\n" not in str(refused.value)


def test_options_that_an_architecture_does_not_have() -> None:
    (target,) = (name for name in architectures() if name.endswith(".Vanilla"))
    with pytest.raises(UserError, match=r"memexp.model.vanilla.Vanilla does not accept these options"):
        instantiate({"_target_": target, "no_such_option": 1})

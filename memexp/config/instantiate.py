"""The only place where the `_target_` of a configuration becomes an object. Only the classes of architectures are allowed."""

from functools import cache
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.introspection import CONF
from memexp.errors import UserError, did_you_mean


@cache
def architectures() -> tuple[str, ...]:
    """The classes that the files of `conf/arch` name."""
    import yaml

    files = [(CONF / "arch" / f"{name}.yaml").read_text(encoding="utf-8") for name in ARCHS]
    return tuple(dict.fromkeys(yaml.safe_load(text)["arch"]["_target_"] for text in files))


def instantiate(node: dict[str, Any], /, **more: Any) -> Any:
    """Call `node["_target_"]` with the rest of `node` and `more` as keyword arguments.

    A configuration can come from another person's run folder, so it must not be able to name any other code.

    Raises:
        UserError: the target is not a class of `architectures`, or does not accept these options.
    """
    import importlib
    import inspect

    options = dict(node)
    target = options.pop("_target_", None)
    if target not in architectures():
        known = ", ".join(architectures())
        raise UserError(
            f"arch._target_ is {target!r}; expected one of {known}{did_you_mean(str(target), architectures())}"
        )
    module, _, name = target.rpartition(".")
    built = getattr(importlib.import_module(module), name)
    try:
        inspect.signature(built).bind(**options, **more)
    except TypeError as error:
        raise UserError(f"{target} does not accept these options: {error}") from error
    return built(**options, **more)

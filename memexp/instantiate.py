"""The one place where a configuration's `_target_` becomes an object."""

from typing import Any

from memexp.errors import UserError


def instantiate(node: dict[str, Any], /, **more: Any) -> Any:
    """Call `node["_target_"]` with the rest of `node` and `more` as keyword arguments.

    Raises:
        UserError: the target is not memexp's own, is unknown, or does not take these options. A configuration can come
            from somebody else's run folder, so it must not be able to name any other code.
    """
    options = dict(node)
    target = options.pop("_target_", None)
    if not isinstance(target, str) or not target.startswith("memexp."):
        raise UserError(f"_target_ is {target!r}; expected a class of memexp, such as memexp.model.xl.Xl")
    import importlib
    import inspect

    module, _, name = target.rpartition(".")
    try:
        built = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"_target_ is {target!r}, which memexp does not have; expected one of its classes ({error})"
        ) from error
    try:
        inspect.signature(built).bind(**options, **more)
    except TypeError as error:
        raise UserError(f"{target} does not take these options: {error}") from error
    return built(**options, **more)

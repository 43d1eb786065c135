"""The one place where a configuration's `_target_` becomes an object."""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

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
    hints = get_type_hints(built.__init__)
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            raise UserError(f"{name} of {target} is {value!r}; expected {_in_words(hints[name])}")
    return built(**options, **more)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration is of that type, as far as it can be told."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if kind in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value if inner)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)


def _in_words(hint: Any) -> str:
    kinds = [
        one for one in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) if one is not NoneType
    ]
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return " or ".join(
        "a list in brackets, such as [a,b]" if get_origin(one) in (list, tuple, Sequence) else words.get(one, str(one))
        for one in kinds
    )

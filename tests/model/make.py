"""Architectures with options by keyword, as tests of one model write them."""

from typing import Any, TypeVar, get_type_hints

from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape

Model = TypeVar("Model", bound=SegmentModel)


def make(model: type[Model], shape: Shape, *, mem: int, **options: Any) -> Model:
    """`model` with these options, the others as its schema says."""
    schema: Any = get_type_hints(model.__init__)["arch"]
    return model(shape, mem, schema(**options))  # type: ignore[arg-type]

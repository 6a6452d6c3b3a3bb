"""A neuron's settings taken apart: numbers are part of the kernel, tensors are its operands."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from torch import Tensor

Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""A neuron's keyword arguments, by name."""


class Hole(NamedTuple):
    """Stands where a tensor was."""

    position: int


def split(value: Any, tensors: list[Tensor]) -> Any:  # noqa: ANN401
    """The value with a `Hole` for every tensor in it; the tensors are appended to `tensors`.

    Args:
        value: A setting, or (nested) tuples of settings: charges and resets are such.
        tensors: What was found so far.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return Hole(len(tensors) - 1)
    return _rebuilt(value, lambda item: split(item, tensors))


def fill(value: Any, tensors: Sequence[Tensor]) -> Any:  # noqa: ANN401
    """The inverse of `split`."""
    if isinstance(value, Hole):
        return tensors[value.position]
    return _rebuilt(value, lambda item: fill(item, tensors))


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    if not isinstance(value, tuple):
        return cast("object", value)
    items = [change(item) for item in cast("tuple[Any, ...]", value)]
    named = hasattr(value, "_fields")
    return type(value)(*items) if named else tuple(items)  # pyright: ignore[reportUnknownVariableType]


def identity(value: object) -> Hashable:
    """What two settings must have in common to be the same.

    Equality is not enough: ``1 == 1.0 == True``, ``0.0 == -0.0``, and two NamedTuples of different
    classes are equal when their items are.
    """
    if isinstance(value, tuple):
        items = cast("tuple[object, ...]", value)
        return (type(items), *map(identity, items))
    if isinstance(value, (int, float, str)):
        return (type(value), repr(value))
    return cast("Hashable", value)

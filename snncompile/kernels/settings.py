"""A neuron's settings taken apart: numbers are part of the kernel, tensors are its operands."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

Operand = TypeVar("Operand")
Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""A neuron's keyword arguments, by name."""


class Hole(NamedTuple):
    """Stands where a tensor was."""

    position: int


def split(value: Any, kind: type[Operand], found: list[Operand]) -> Any:  # noqa: ANN401
    """The value with a `Hole` for every operand in it.

    Args:
        value: A setting, or (nested) tuples of settings: charges and resets are such.
        kind: What operands are: tensors, or nodes that stand for them.
        found: The operands found so far; those of `value` are appended.
    """
    if isinstance(value, kind):
        found.append(value)
        return Hole(len(found) - 1)
    return _rebuilt(value, lambda item: split(item, kind, found))


def fill(value: Any, operands: Sequence[object]) -> Any:  # noqa: ANN401
    """The inverse of `split`."""
    if isinstance(value, Hole):
        return operands[value.position]
    return _rebuilt(value, lambda item: fill(item, operands))


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    if not isinstance(value, tuple):
        return value
    items = [change(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def identity(value: object) -> Hashable:
    """What two settings must have in common to be the same.

    Equality is not enough: ``1 == 1.0 == True``, ``0.0 == -0.0``, and two NamedTuples of different
    classes are equal when their items are.
    """
    if isinstance(value, tuple):
        return (type(value), *map(identity, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (int, float, str)):
        return (type(value), repr(value))
    return value

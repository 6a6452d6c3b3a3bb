"""Sequences: what a value of a step becomes over time, and how time folds into the batch.

A tensor [N, ...] of one step is a sequence [T, N, ...] over time, folded [T * N, ...]. A call that
returns several tensors has a tuple of sequences. What is not a tensor, a size say, is the same at
every step and is its own sequence.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TypeAlias

import torch
from torch import Tensor

Value: TypeAlias = "Tensor | tuple[Value, ...] | list[Value] | int | float | None"


def unstack(sequence: Value, steps: int) -> Iterable[Value]:
    """The values of the steps. `unbind`, since indexing in a loop costs O(T^2) backward."""
    if isinstance(sequence, Tensor):
        return sequence.unbind(0)
    if isinstance(sequence, (tuple, list)):
        return zip(*(unstack(item, steps) for item in sequence), strict=True)
    return repeat(sequence, steps)


def stack(values: Sequence[Value]) -> Value:
    """The sequence of the values of the steps."""
    return _combined(values, torch.stack)


def split(sequence: Value, steps: int, tile: int) -> Iterable[Value]:
    """The sequence in tiles of `tile` steps; the last may be shorter."""
    if isinstance(sequence, Tensor):
        return torch.split(sequence, tile) if tile < steps else (sequence,)
    if isinstance(sequence, (tuple, list)):
        return zip(*(split(item, steps, tile) for item in sequence), strict=True)
    return repeat(sequence, -(-steps // tile))


def join(tiles: Sequence[Value]) -> Value:
    """The sequence that tiles make one after the other."""
    return tiles[0] if len(tiles) == 1 else _combined(tiles, torch.cat)


def _combined(values: Sequence[Value], combine: Callable[[list[Tensor]], Tensor]) -> Value:
    tensors = [value for value in values if isinstance(value, Tensor)]
    if tensors:
        return combine(tensors)
    items = [value for value in values if isinstance(value, (tuple, list))]
    if items:
        return tuple(_combined(column, combine) for column in zip(*items, strict=True))
    return values[0]


def fold(sequence: Value) -> Value:
    """Time into the batch: [T, N, ...] becomes [T * N, ...]."""
    if isinstance(sequence, Tensor):
        return sequence.flatten(0, 1)
    return tuple(map(fold, sequence)) if isinstance(sequence, (tuple, list)) else sequence


def unfold(folded: Value, steps: int) -> Value:
    """Time out of the batch: [T * N, ...] becomes [T, N, ...]."""
    if isinstance(folded, Tensor):
        return torch.unflatten(folded, 0, (steps, folded.shape[0] // steps))
    if isinstance(folded, (tuple, list)):
        return tuple(unfold(item, steps) for item in folded)
    return folded


def repeated(value: Value, steps: int) -> Value:
    """The sequence of a value that is the same at every step, without a copy."""
    if isinstance(value, Tensor):
        return value.expand(steps, *value.shape)
    if isinstance(value, (tuple, list)):
        return tuple(repeated(item, steps) for item in value)
    return value


def delayed(initial: Tensor, following: Tensor) -> Tensor:
    """What a state is before every step: `initial`, then what each step but the last left.

    Args:
        initial: The state before the first step, [N, ...].
        following: What every step makes of it, [T, N, ...].

    Returns:
        [T, N, ...].
    """
    return torch.cat((initial.unsqueeze(0), following[:-1]))


def last(sequence: Tensor) -> Tensor:
    """The value of the last step, [N, ...]."""
    return sequence[-1]

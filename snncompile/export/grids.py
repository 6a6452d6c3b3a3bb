# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Dyadic grids: values that float32 holds and adds without rounding, and what calls make of them.

A grid is the multiples of a power of two up to a bound. Spikes are on one, and so are weights that
were rounded to binary fractions; sums and products of grids are on grids.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

_EXACT_INTEGERS = 2**24
_FINEST = 16
"""The most fractional bits that a grid may have."""

_SAMPLE = 1024
"""How many values are looked at before all of them are."""


@dataclass(frozen=True)
class Grid:
    """Values that are multiples of 2^-bits, at most `bound` in magnitude."""

    bits: int
    bound: float

    @property
    def fits(self) -> bool:
        """Whether float32 holds every one of them."""
        return self.bound * 2.0**self.bits <= _EXACT_INTEGERS


Known: TypeAlias = Grid | None
"""None: any float."""


class InexactError(Exception):
    """A sum or a function whose last bit depends on the runtime."""


def grid_of(*tensors: Tensor) -> Known:
    """The coarsest dyadic grid that holds all elements; None if there is none."""
    values = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    if _bits(values[:_SAMPLE]) is None:
        return None
    bits = _bits(values)
    bound = float(values.abs().max()) if values.numel() else 0.0
    return None if bits is None else Grid(bits, bound)


def _bits(values: Tensor) -> int | None:
    for bits in range(_FINEST + 1):
        scaled = values * 2.0**bits
        if torch.equal(scaled, scaled.round()):
            return bits
    return None


def _sum_of_all(grids: Sequence[Known]) -> Known:
    if any(grid is None for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    total = Grid(max(g.bits for g in known), sum(g.bound for g in known))
    return total if total.fits else None


def _product(grids: Sequence[Known]) -> Known:
    if any(grid is None for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    total = Grid(sum(g.bits for g in known), math.prod(g.bound for g in known))
    return total if total.fits else None


def _widest(grids: Sequence[Known]) -> Known:
    if any(grid is None for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    return Grid(max(g.bits for g in known), max(g.bound for g in known))


PAIRS = frozenset((operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul))
RULES: Mapping[Callable[..., Any] | str, Callable[[Sequence[Known]], Known]] = {
    **dict.fromkeys((operator.add, operator.sub, torch.add, torch.sub), _sum_of_all),
    **dict.fromkeys((operator.mul, torch.mul), _product),
    **dict.fromkeys(
        (
            torch.reshape, torch.flatten, torch.permute, torch.transpose, torch.unsqueeze,
            torch.squeeze, operator.getitem, torch.cat, torch.stack, torch.relu, functional.relu,
            torch.maximum, torch.amax, torch.detach, operator.neg, functional.max_pool2d,
            torch.max_pool2d, functional.pad, "to", "expand", "repeat",
        ),
        _widest,
    ),
}  # fmt: skip
ROUNDED_ONCE: frozenset[Any] = frozenset(
    (
        operator.truediv, torch.div, torch.clamp, torch.where, torch.abs, torch.round,
        torch.floor, torch.ceil, torch.sign, torch.minimum, operator.gt, operator.ge, operator.lt,
        operator.le, operator.eq, operator.ne, operator.and_, operator.or_, operator.invert,
        torch.zeros_like, torch.ones_like, torch.full_like, torch.argmax, torch.max,
        torch.ops.aten.sym_size.int,
    )
)  # fmt: skip

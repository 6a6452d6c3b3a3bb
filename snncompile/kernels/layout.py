"""How a sequence lies in memory: kernels walk over elements in the order in which they are stored.

A channels-last sequence is scanned channels last; what goes with it (states, settings, gradients)
is put in the same order.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from snncompile.kernels import arena


@dataclass(frozen=True)
class Layout:
    """The shape of a sequence and the order of a step's axes in memory.

    Attributes:
        shape: [T, N, ...].
        order: The axes of one step, [N, ...], outermost first.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @cached_property
    def width(self) -> int:
        """How many elements a step has."""
        return prod(self.shape[1:])

    @cached_property
    def usual(self) -> bool:
        """Whether the axes are in their own order."""
        return self.order == tuple(range(len(self.order)))

    @property
    def size(self) -> tuple[int, int]:
        """Steps and width."""
        return self.shape[0], self.width

    def rows(self, sequence: Tensor) -> Tensor:
        """A sequence with every step dense and in order; steps lie at ``stride(0)``."""
        if self.usual and sequence.is_contiguous():
            return sequence
        ordered = sequence.permute(0, *(axis + 1 for axis in self.order))
        return ordered if ordered[0].is_contiguous() else ordered.contiguous()

    def flat(self, value: Tensor) -> Tensor:
        """One step's value, which may broadcast, dense and in order."""
        full = value.expand(self.shape[1:])
        return (full if self.usual else full.permute(self.order)).contiguous()

    def empty(self, like: Tensor, dtype: torch.dtype, *, steps: bool) -> Tensor:
        """A new value of all steps or of one, dense and in order."""
        sizes = [self.shape[axis + 1] for axis in self.order]
        value = arena.empty(like, [self.shape[0], *sizes] if steps else sizes, dtype)
        if self.usual:
            return value
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return value.permute(0, *(axis + 1 for axis in back)) if steps else value.permute(back)


def layout_of(sequence: Tensor) -> Layout:
    """The order in which a sequence's steps are stored; the usual one, if they are not dense."""
    strides = sequence.stride()[1:]
    usual = tuple(range(len(strides)))
    if sequence.is_contiguous():
        return Layout(tuple(sequence.shape), usual)
    order = tuple(sorted(usual, key=lambda axis: -strides[axis]))
    dense = sequence.select(0, 0).permute(order).is_contiguous()
    return Layout(tuple(sequence.shape), order if dense else usual)

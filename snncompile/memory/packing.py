"""Values of few levels, packed: one bit a spike, as many bits as it takes for a count.

A value is laid out in planes of bits, the lowest first, in the order in which its elements are
stored. What is found again has the same bits, the same strides and the same dtype.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snncompile.memory.levels import Levels


@dataclass(frozen=True)
class Packing:
    """How a tensor was packed.

    Attributes:
        levels: Its values.
        shape: Its shape.
        stride: Its strides; those of a contiguous tensor where its own leave holes or overlap.
        dtype: Its dtype.
    """

    levels: Levels
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def pack(self, value: Tensor) -> Tensor | None:
        """The planes of a value, uint8 [bits, ceil(elements / 8)]; None if it has other values."""
        dense = value.detach()
        if value.stride() != self.stride:
            dense = dense.new_empty_strided(self.shape, self.stride).copy_(dense)
        flat = dense.as_strided((self.shape.numel(),), (1,))
        counts = self._counts(flat)
        planes = [_packed(counts.bitwise_and(2**i).ne(0)) for i in range(self.levels.bits)]
        if not self.levels.sure and not torch.equal(counts.to(self.dtype) * self.levels.unit, flat):
            return None
        return torch.stack(planes)

    def _counts(self, flat: Tensor) -> Tensor:
        """Which level every element is, as uint8."""
        if self.levels.number == 2:  # noqa: PLR2004
            return flat.ne(0).to(torch.uint8)
        return torch.round(flat / self.levels.unit).to(torch.uint8)

    def unpack(self, planes: Tensor) -> Tensor:
        """The value of these planes."""
        elements = self.shape.numel()
        flat = _unpacked(planes[0], elements).to(self.dtype)
        for i in range(1, self.levels.bits):
            flat += _unpacked(planes[i], elements).to(self.dtype) * 2**i
        if self.levels.unit != 1.0:
            flat *= self.levels.unit
        return flat.as_strided(self.shape, self.stride)


def packing_of(value: Tensor, levels: Levels) -> Packing:
    """How to pack a tensor whose values are these levels."""
    dense = torch.empty_like(value, device="meta").stride()
    return Packing(levels, value.shape, dense, value.dtype)


def _packed(bits: Tensor) -> Tensor:
    """Eight truth values [M] a byte; on other devices than the CPU by shifts."""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.packbits(bits.numpy()))  # pyright: ignore[reportUnknownMemberType]
    missing = -bits.numel() % 8
    rows = torch.nn.functional.pad(bits.to(torch.uint8), (0, missing)).view(-1, 8)
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return (rows << shifts).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, elements: int) -> Tensor:
    """The truth values of `_packed`, as uint8 [M]."""
    if packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=elements))  # pyright: ignore[reportUnknownMemberType]
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    return (packed.unsqueeze(1) >> shifts & 1).flatten()[:elements]

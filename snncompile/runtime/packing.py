"""Values of few levels, packed: one bit a spike, as many bits as it takes for a count.

Elements are packed in the order in which they are stored. What is found again has the same bits,
the same strides and the same dtype.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snncompile.kernels import bits
from snncompile.kernels.operands import is_plain
from snncompile.memory.levels import Levels


@dataclass(frozen=True)
class Packing:
    """How a tensor was packed.

    Attributes:
        levels: Its values.
        shape: Its shape.
        stride: Its strides; those of a contiguous tensor where its own leave holes or overlap.
        dtype: Its dtype.
        rows: How many rows a kernel packed it in; 0 where it is in planes of bits.
    """

    levels: Levels
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    rows: int

    def unpack(self, packed: Tensor) -> Tensor:
        """The value again.

        Args:
            packed: What `pack` made of it.
        """
        if self.rows:
            found = bits.Packed(packed, self.levels.unit)
            flat = bits.unpack(found, self.shape.numel() // self.rows, self.dtype)
        else:
            flat = self._counts(packed).to(self.dtype)
            flat = flat if self.levels.unit == 1.0 else flat.mul_(self.levels.unit)
        return flat.as_strided(self.shape, self.stride)

    def _counts(self, planes: Tensor) -> Tensor:
        """Which level every element is, from planes of bits, the lowest first."""
        elements = self.shape.numel()
        counts = _unpacked(planes[0], elements)
        for i in range(1, self.levels.bits):
            counts += _unpacked(planes[i], elements) << i
        return counts


def pack(value: Tensor, levels: Levels) -> tuple[Packing, Tensor] | None:
    """Pack a tensor.

    Args:
        value: Any shape; its values are the levels if these are sure.
        levels: What they should be.

    Returns:
        How it was packed, and in what, uint8; None if it has other values.
    """
    value = value.detach()
    stride = torch.empty_like(value, device="meta").stride()
    dense = value
    if value.stride() != stride:
        dense = value.new_empty_strided(value.shape, stride).copy_(value)
    rows = _rows(value) if levels.number == 2 and is_plain(value) else 0  # noqa: PLR2004
    flat = dense.as_strided((value.numel(),), (1,))
    found = bits.pack(flat.view(rows, -1)) if rows else None
    if found is not None and found.size in (1.0, levels.unit):
        levels = levels._replace(unit=found.size)
        return Packing(levels, value.shape, stride, value.dtype, rows), found.bits
    counts = _counted(flat, levels)
    if not levels.sure and not torch.equal(counts.to(value.dtype) * levels.unit, flat):
        return None
    planes = [_packed(counts.bitwise_and(1 << i).ne(0)) for i in range(levels.bits)]
    return Packing(levels, value.shape, stride, value.dtype, 0), torch.stack(planes)


def _rows(value: Tensor) -> int:
    """Rows to pack, so that threads can share them and none is shorter than a few words."""
    first = value.shape[0] if value.dim() else 1
    return first if first and value.numel() // first >= 64 else int(value.numel() > 0)  # noqa: PLR2004


def _counted(flat: Tensor, levels: Levels) -> Tensor:
    if levels.number == 2:  # noqa: PLR2004
        return flat.ne(0).to(torch.uint8)
    return torch.round(flat / levels.unit).to(torch.uint8)


def _packed(truth: Tensor) -> Tensor:
    """Eight truth values [M] a byte; on other devices than the CPU by shifts."""
    if truth.device.type == "cpu":
        return torch.from_numpy(np.packbits(truth.numpy()))  # pyright: ignore[reportUnknownMemberType]
    missing = -truth.numel() % 8
    rows = torch.nn.functional.pad(truth.to(torch.uint8), (0, missing)).view(-1, 8)
    shifts = torch.arange(7, -1, -1, device=truth.device, dtype=torch.uint8)
    return (rows << shifts).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, elements: int) -> Tensor:
    """The truth values of `_packed`, as uint8 [M]."""
    if packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=elements))  # pyright: ignore[reportUnknownMemberType]
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    return (packed.unsqueeze(1) >> shifts & 1).flatten()[:elements]

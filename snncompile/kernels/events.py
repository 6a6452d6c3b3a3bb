"""Products with spikes as sums: a row of the weight for every input that is active.

A dense product multiplies every weight with 0 or 1. These add up what a 1 picks, in another order
than the library does, so that results differ in rounding; sums of dyadic numbers, which round
nowhere, are the same bits.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from snncompile.kernels import arena
from snncompile.kernels.bits import Packed
from snncompile.kernels.event_source import SOURCE
from snncompile.kernels.library import functions
from snncompile.kernels.threads import share

_LONGEST = 2**31
"""Events are numbered with 32 bits."""


def fits(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for products of these sizes."""
    sizes = 0 < rows * inputs < _LONGEST and outputs > 0
    return sizes and functions(SOURCE, dtype) is not None


def product(packed: Packed, weight: Tensor, bias: Tensor | None, ahead: int = 0) -> Tensor:
    """What a Linear makes of spikes.

    Args:
        packed: Rows of spikes, [R, M].
        weight: [M', M], float32 or float64 on the CPU.
        bias: [M'], or None.
        ahead: For how many more rows there is room ahead of these.

    Returns:
        size * spikes @ weight.t() + bias, [R, M']; with the rows ahead, that hold anything.
    """
    library: Any = functions(SOURCE, weight.dtype)
    weight = weight.contiguous()
    (outputs, inputs), rows = weight.shape, len(packed.bits)
    panels = weight.new_empty(number_of(library.padded, outputs) * inputs)
    parts = number_of(library.parts, outputs)
    share(library.panels, parts, (weight, outputs, inputs, panels), weight.numel())
    offset = weight.new_zeros(outputs) if bias is None else bias.contiguous()
    out = arena.empty(weight, (ahead + rows, outputs), weight.dtype)
    given = (packed.bits, panels, offset, packed.size, outputs, inputs, out[ahead:])
    share(library.forward, rows, given, rows * outputs)
    return out


def weight_gradient(packed: Packed, gradient: Tensor, inputs: int) -> Tensor:
    """The gradient of a Linear's weight.

    Args:
        packed: Rows of spikes, [R, M].
        gradient: Of its output, [R, M'], float32 or float64 on the CPU.
        inputs: M.

    Returns:
        size * gradient.t() @ spikes, [M', M].
    """
    library: Any = functions(SOURCE, gradient.dtype)
    gradient = gradient.contiguous()
    rows, outputs = gradient.shape
    out = gradient.new_empty(outputs, inputs)
    given = (packed.bits, gradient, packed.size, rows, outputs, inputs, out)
    share(library.backward, number_of(library.parts, outputs), given, rows * outputs)
    return out


def active(bits: Tensor) -> int:
    """How many ones there are among bits; a kernel has made them."""
    library: Any = functions(SOURCE, torch.float32)
    return number_of(library.active, ctypes.c_void_p(bits.data_ptr()), bits.numel())


def number_of(function: Any, *arguments: Any) -> int:  # noqa: ANN401
    """What a function of C returns as int64_t; numbers it takes are such too."""
    function.restype = ctypes.c_int64
    return int(function(*(ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments)))

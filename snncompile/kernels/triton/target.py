"""Launches sweeps printed as Triton: on a GPU, or in Triton's interpreter."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from snncompile.kernels.build import BuildError
from snncompile.kernels.layout import Layout
from snncompile.kernels.sweep import Sweeps
from snncompile.kernels.target import Launch, Target
from snncompile.kernels.team import Function
from snncompile.kernels.threads import Array
from snncompile.kernels.triton.modules import module
from snncompile.kernels.triton.source import Source, source

OPTIONS = {"enable_fp_fusion": False}
"""No product is added without having been rounded: eager torch rounds both."""

_PROGRAMS = 4
"""How many programs a multiprocessor should have, to be busy while some of them wait."""
_IN_FLIGHT = 4096
"""How many elements of an array a multiprocessor should have asked for, to keep memory busy."""
_LANES = 32
_LARGEST_BLOCK, _MOST_STAGES = 1024, 16
_A_LANE = 4
"""Elements that one lane takes: 16 bytes of float32 are one transaction."""


class Shape(NamedTuple):
    """How a sweep is divided.

    Attributes:
        block: Elements that a program takes.
        stages: Steps of a program whose elements are on their way or there.
    """

    block: int
    stages: int

    @property
    def options(self) -> dict[str, Any]:
        """What Triton launches with."""
        warps = max(1, self.block // (_LANES * _A_LANE))
        return {"BLOCK": self.block, "STAGES": self.stages, "num_warps": warps, **OPTIONS}


LARGEST = Shape(_LARGEST_BLOCK, 1)


def shape(width: int, multiprocessors: int) -> Shape:
    """Large programs, but some for every multiprocessor; the fewer elements, the more steps ahead.

    Args:
        width: Elements of a step.
        multiprocessors: Of the device.
    """
    columns = max(1, width // multiprocessors)
    block = _power_of_two(columns // _PROGRAMS, _LANES, _LARGEST_BLOCK)
    return Shape(block, _power_of_two(_IN_FLIGHT // columns, 1, _MOST_STAGES))


def _power_of_two(number: int, least: int, most: int) -> int:
    """The largest one that is not above a number, within bounds."""
    return min(most, max(least, 1 << max(0, number.bit_length() - 1)))


def is_interpreted() -> bool:
    """Whether kernels are run by Triton's interpreter, which takes tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


class Gpu(Target):
    """CUDA's devices."""

    name = "triton"

    def build(self, sweeps: Sweeps) -> tuple[str, tuple[Function, ...]]:
        """Print a module, import it, and have it compiled for the current device.

        Raises:
            NotElementwiseError: An operation cannot be printed.
            BuildError: Triton is not installed, or fails.
        """
        if sweeps.definition.device == "cpu" and not is_interpreted():
            raise BuildError("there is no kernel of Triton for CPUs but in its interpreter")
        printed = source(sweeps)
        made = module(printed.text)
        functions = tuple(getattr(made, name) for name in printed.arrays)
        if not is_interpreted():
            _warm_up(functions, printed)
        return printed.text, functions

    def launch(self, layout: Layout, like: Tensor, dtype: torch.dtype) -> Launch:
        """Divide the elements among programs."""
        return _Programs(layout, like, dtype)


def _warm_up(functions: Sequence[Function], printed: Source) -> None:
    """Have functions compiled, so that what fails fails here."""
    for function, arrays in zip(functions, printed.arrays.values(), strict=True):
        given = [value for dtype in arrays for value in (dtype, 16)]
        try:
            function.warmup(16, 16, *given, **LARGEST.options, grid=(1,))  # type: ignore[attr-defined]
        except Exception as error:  # whatever a compiler that is not ours raises
            raise BuildError(f"Triton failed: {error}") from error


class _Programs(Launch):
    """Programs share nothing; what a caller leaves out they leave out."""

    def __init__(self, layout: Layout, like: Tensor, dtype: torch.dtype) -> None:
        super().__init__(layout, like, dtype)
        self.shape = shape(layout.width, _multiprocessors(like))
        self.programs = -(-layout.width // self.shape.block)

    def zeros(self) -> None:
        return None

    def scratch(self) -> None:
        return None

    def total(self, *, one: bool) -> tuple[Tensor, list[Array]]:
        """One sum an element; for a scalar one a program."""
        if one:
            total = self.like.new_empty(self.programs, dtype=torch.float64)
        else:
            total = self.layout.empty(self.like, torch.float64, steps=False)
        return total, [Array(total)]

    def run(self, function: Function, arrays: Sequence[Array | None]) -> None:
        steps, width = self.layout.size
        given = [value for array in arrays for value in _pointer(array)]
        if self.programs:
            with torch.cuda.device(self.like.device if self.like.is_cuda else -1):
                function[(self.programs,)](steps, width, *given, **self.shape.options)  # type: ignore[index]


def _pointer(array: Array | None) -> tuple[Tensor | None, int]:
    if array is None:
        return None, 0
    tensor = array.tensor.view(torch.uint8) if array.tensor.dtype == torch.bool else array.tensor
    return tensor, array.distance


def _multiprocessors(like: Tensor) -> int:
    if not like.is_cuda:
        return 1
    return int(cast("Any", torch.cuda).get_device_properties(like.device).multi_processor_count)

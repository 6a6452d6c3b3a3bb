"""What kernels need of the machine they run on: functions for their sweeps, and runs of those."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from snncompile.kernels.layout import Layout
from snncompile.kernels.sweep import Sweeps
from snncompile.kernels.team import Function
from snncompile.kernels.threads import Array


class Launch(ABC):
    """One run of one sweep, in the making.

    Args:
        layout: Of the scan's current.
        like: A tensor on the device.
        dtype: Of all tensors.
    """

    def __init__(self, layout: Layout, like: Tensor, dtype: torch.dtype) -> None:
        self.layout = layout
        self.like = like
        self.dtype = dtype

    @abstractmethod
    def zeros(self) -> Array | None:
        """What stands in for a gradient that is zero."""

    @abstractmethod
    def scratch(self) -> Array | None:
        """Where gradients of a state are carried that nobody asked for."""

    @abstractmethod
    def total(self, *, one: bool) -> tuple[Tensor, list[Array]]:
        """Memory for a setting's gradient, and what of it the sweep takes.

        Args:
            one: The setting is one number; its gradient is the sum of what the sweep writes.
        """

    @abstractmethod
    def run(self, function: Function, arrays: Sequence[Array | None]) -> None:
        """Run a sweep on what it reads and writes, in its order."""


class Target(ABC):
    """A kind of machine.

    Attributes:
        name: Of the target.
    """

    name = ""

    @abstractmethod
    def build(self, sweeps: Sweeps) -> tuple[str, tuple[Function, ...]]:
        """The text of a kernel, and its functions: ``forward`` and perhaps ``backward``.

        Raises:
            NotElementwiseError: An operation cannot be printed.
            BuildError: This machine cannot compile it.
        """

    @abstractmethod
    def launch(self, layout: Layout, like: Tensor, dtype: torch.dtype) -> Launch:
        """Prepare a run."""

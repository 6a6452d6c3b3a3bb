"""Counting: the number of spikes, or of units, that a neuron sends in one step."""

from typing import Any

import torch
from torch import Tensor


class _RoundWithin(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(drive: Tensor, levels: float) -> Tensor:
        return torch.round(torch.clamp(drive, 0, levels))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        drive, levels = inputs
        ctx.save_for_backward(drive)
        ctx.levels = levels

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (drive,) = ctx.saved_tensors
        inside = (drive >= 0) & (drive <= ctx.levels)
        return grad_outputs[0] * inside.to(drive.dtype), None


def rounded(drive: Tensor, levels: float) -> Tensor:
    """round(clamp(drive, 0, levels)), with gradient 1 inside the clamp and 0 outside.

    Args:
        drive: How many thresholds the membrane holds, any shape.
        levels: The largest count.

    Returns:
        The counts, same shape and dtype.
    """
    return _RoundWithin.apply(drive, levels)  # type: ignore[no-untyped-call, no-any-return]


class _InUnits(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(size: Tensor, levels: float, unit: float) -> Tensor:
        return torch.clamp(torch.round(size / unit), 0, levels) * unit

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        """Nothing is kept: the gradient is the same everywhere."""

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return grad_outputs[0], None, None


def in_units(size: Tensor, levels: float, unit: float) -> Tensor:
    """The nearest multiple of a unit, at most `levels` of it, with gradient 1 everywhere.

    Args:
        size: What is emitted, any shape; halves go to the even multiple.
        levels: How many units at most.
        unit: Their size.

    Returns:
        unit * clamp(round(size / unit), 0, levels), same shape and dtype.
    """
    return _InUnits.apply(size, levels, unit)  # type: ignore[no-untyped-call, no-any-return]

"""Counting: the number of spikes that a neuron which emits integers sends in one step."""

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

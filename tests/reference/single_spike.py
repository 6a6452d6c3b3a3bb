"""The single-spike network as published, in float64: convolutions over time and all of autograd.

Written from the equations of Taylor, King and Harper, 2022, arXiv:2205.15286: membranes by a
product with the T by T matrix of decays, z by one with the matrix of t - k + 1, the selectors by
their formulas. Costs O(T^2).
"""

# pyright: basic

from typing import Any

import torch
from torch import Tensor


class Crossing(torch.autograd.Function):
    """1 above the threshold; backward 1 / (k |d| + 1)^2."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.slope = slope
        return (distance > 0).double()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (distance,) = ctx.saved_tensors
        return grad_outputs[0] / (ctx.slope * distance.abs() + 1) ** 2, None


def steps_between(steps: int) -> Tensor:
    """t - k for step t in the rows and k in the columns."""
    times = torch.arange(steps, dtype=torch.float64)
    return times[:, None] - times[None, :]


def membranes(current: Tensor, decay: Tensor) -> Tensor:
    """V[t] = sum of decay^(t - k) I[k] over k <= t; [T, N, M], one decay or M of them."""
    between = steps_between(len(current))
    powers = decay.reshape(-1, 1, 1) ** between.clamp(min=0) * (between >= 0)
    return torch.einsum("mtk,knm->tnm", powers.expand(current.shape[2], -1, -1), current)


def crossings(membrane: Tensor, slope: float) -> Tensor:
    """z[t] = sum of (t - k + 1) 1[V[k] > 1] over k <= t."""
    across = Crossing.apply(membrane - 1, slope)  # type: ignore[no-untyped-call]
    weights = (steps_between(len(membrane)) + 1).clamp(min=0)
    return torch.einsum("tk,knm->tnm", weights, across)


def layer(current: Tensor, decay: Tensor, rule: str, slope: float) -> Tensor:
    """The spikes of one layer, [T, N, M]."""
    z = crossings(membranes(current, decay), slope)
    if rule == "v1":
        return torch.relu(z * (1 - z) + 1) * z
    return z - torch.where(z == 1, torch.zeros_like(z), z).detach()

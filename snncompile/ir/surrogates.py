"""Firing: the Heaviside step forward, a surrogate derivative backward.

A surrogate is a value: its name and its parameters. `DERIVATIVES` holds, for every name, the
derivative that stands in for the step's at `distance` (membrane minus threshold, any shape).
The names and parameters are the libraries' own; semantics.md of the project lists where two
libraries give one name to two formulas, and those have two names here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Surrogate(NamedTuple):
    """Which derivative replaces the step's, e.g. ``Surrogate("atan", (2.0,))``.

    Attributes:
        name: A key of `DERIVATIVES`, or "function" for a torch.autograd.Function of the user.
        parameters: The formula's numbers, in its own order.
        function: For "function", the user's autograd.Function class; called as
            ``function.apply(distance, *parameters)``.
    """

    name: str
    parameters: tuple[float, ...] = ()
    function: "type[torch.autograd.Function] | None" = None

    def __str__(self) -> str:
        """``atan(2.0)``: the spelling of the program text."""
        name = self.function.__name__ if self.function else self.name
        return f"{name}({', '.join(f'{number:g}' for number in self.parameters)})"


def _atan(distance: Tensor, alpha: float) -> Tensor:
    return (alpha / 2) / (1 + (math.pi / 2 * alpha * distance) ** 2)


def _sigmoid(distance: Tensor, alpha: float) -> Tensor:
    slope = torch.sigmoid(alpha * distance)
    return alpha * slope * (1 - slope)


def _fast_sigmoid(distance: Tensor, slope: float) -> Tensor:
    return 1 / (slope * distance.abs() + 1) ** 2


def _rectangle(distance: Tensor, alpha: float) -> Tensor:
    return alpha * (distance.abs() < 0.5 / alpha).to(distance.dtype)


def _triangle(distance: Tensor, alpha: float) -> Tensor:
    return (alpha - alpha**2 * distance.abs()).clamp(min=0)


def _straight_through(distance: Tensor) -> Tensor:
    return torch.ones_like(distance)


def _none(distance: Tensor) -> Tensor:
    return torch.zeros_like(distance)


DERIVATIVES: Mapping[str, Callable[..., Tensor]] = {
    "atan": _atan,
    "sigmoid": _sigmoid,
    "fast_sigmoid": _fast_sigmoid,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "straight_through": _straight_through,
    "none": _none,
}


class _Fire(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(distance: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:  # noqa: FBT001
        fired = distance > 0 if strict else distance >= 0
        return fired.to(distance.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG004
        distance, surrogate, _ = inputs
        ctx.surrogate = surrogate
        ctx.save_for_backward(distance)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (distance,) = ctx.saved_tensors
        derivative = DERIVATIVES[ctx.surrogate.name](distance, *ctx.surrogate.parameters)
        return grad_outputs[0] * derivative, None, None


def fire(distance: Tensor, surrogate: Surrogate, *, strict: bool) -> Tensor:
    """Spikes (0 or 1, same shape and dtype) where the membrane reaches its threshold.

    Args:
        distance: Membrane minus threshold, any shape.
        surrogate: The derivative used backward.
        strict: Fire at ``distance > 0``; otherwise at ``distance >= 0``.
    """
    if surrogate.function is not None:
        return surrogate.function.apply(distance, *surrogate.parameters)
    return _Fire.apply(distance, surrogate, strict)

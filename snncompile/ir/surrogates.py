"""Firing: the Heaviside step forward, a surrogate derivative backward.

A surrogate is a value: its name and its parameters. `DERIVATIVES` holds, for every name, the
derivative that stands in for the step's at `distance` (membrane minus threshold, any shape).
The names and parameters are the libraries' own; where two libraries give one name to two
formulas, those have two names here.
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


def _piecewise_exp(distance: Tensor, alpha: float) -> Tensor:
    return alpha / 2 * torch.exp(-alpha * distance.abs())


def _soft_sign(distance: Tensor, alpha: float) -> Tensor:
    return 1 / (2 * alpha * (1 / alpha + distance.abs()) ** 2)


def _super_spike(distance: Tensor, alpha: float) -> Tensor:
    return alpha / (1 + distance.abs()) ** 2


def _erf(distance: Tensor, alpha: float) -> Tensor:
    return alpha / math.sqrt(math.pi) * torch.exp(-((alpha * distance) ** 2))


def _nonzero_sign_log_abs(distance: Tensor, alpha: float) -> Tensor:
    return 1 / (1 / alpha + distance.abs())


def _piecewise_leaky_relu(distance: Tensor, width: float, slope: float) -> Tensor:
    inside = distance.abs() < width
    return torch.full_like(distance, slope).masked_fill(inside, 1 / (2 * width))


def _squarewave_fourier_series(distance: Tensor, terms: float, period: float) -> Tensor:
    waves = [
        torch.cos((2 * i - 1) * (2 * math.pi / period) * distance) for i in range(1, int(terms))
    ]
    return sum(waves, torch.zeros_like(distance)) * (4 / period)


def _s2nn(distance: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(distance < 0, _sigmoid(distance, alpha), beta / (distance + 1))


def _q_pseudo_spike(distance: Tensor, alpha: float) -> Tensor:
    return (1 + 2 / (alpha - 1) * distance.abs()) ** -alpha


def _leaky_k_relu(distance: Tensor, leak: float, slope: float) -> Tensor:
    return torch.full_like(distance, leak).masked_fill(distance >= 0, slope)


def _fake_numerical_gradient(distance: Tensor, limit: float) -> Tensor:
    sign = torch.ones_like(distance).masked_fill(distance < 0, -1)
    return (sign / distance).clamp(max=limit)


def _log_tailed_relu(distance: Tensor, leak: float) -> Tensor:
    tail = torch.where(distance > 1, 1 / distance, torch.ones_like(distance))
    return tail.masked_fill(distance <= 0, leak)


def _tent(distance: Tensor, alpha: float) -> Tensor:
    return alpha * (1 - distance.abs()).clamp(min=0)


def _tanh(distance: Tensor, slope: float) -> Tensor:
    return 1 - torch.tanh(slope * distance) ** 2


def _circ(distance: Tensor, alpha: float) -> Tensor:
    return alpha**3 / (alpha**2 + distance**2) ** 1.5


def _erfc(distance: Tensor, slope: float) -> Tensor:
    return 2 / math.sqrt(math.pi) * torch.exp(-((slope * distance) ** 2))


def _sign(distance: Tensor, size: float) -> Tensor:
    return torch.full_like(distance, size).masked_fill(distance >= 0, -size)


def _spike_rate_escape(distance: Tensor, beta: float, slope: float) -> Tensor:
    return slope * torch.exp(-beta * (distance - 1).abs())


def _sparse_fast_sigmoid(distance: Tensor, slope: float, bound: float) -> Tensor:
    return _fast_sigmoid(distance, slope) * (distance > bound).to(distance.dtype)


def _fired(distance: Tensor) -> Tensor:
    return (distance > 0).to(distance.dtype)


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
    "piecewise_exp": _piecewise_exp,
    "soft_sign": _soft_sign,
    "super_spike": _super_spike,
    "erf": _erf,
    "nonzero_sign_log_abs": _nonzero_sign_log_abs,
    "piecewise_leaky_relu": _piecewise_leaky_relu,
    "squarewave_fourier_series": _squarewave_fourier_series,
    "s2nn": _s2nn,
    "q_pseudo_spike": _q_pseudo_spike,
    "leaky_k_relu": _leaky_k_relu,
    "fake_numerical_gradient": _fake_numerical_gradient,
    "log_tailed_relu": _log_tailed_relu,
    "tent": _tent,
    "tanh": _tanh,
    "circ": _circ,
    "erfc": _erfc,
    "sign": _sign,
    "spike_rate_escape": _spike_rate_escape,
    "sparse_fast_sigmoid": _sparse_fast_sigmoid,
    "fired": _fired,
    "straight_through": _straight_through,
    "none": _none,
}


class _Fire(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(distance: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        fired = distance > 0 if strict else distance >= 0
        return fired.to(distance.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
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

    Returns:
        The spikes; their gradient is the surrogate's derivative.
    """
    if surrogate.function is not None:
        return surrogate.function.apply(distance, *surrogate.parameters)  # type: ignore[no-untyped-call, no-any-return]
    return _Fire.apply(distance, surrogate, strict)  # type: ignore[no-untyped-call, no-any-return]


def spike(distance: Tensor, *, surrogate: Surrogate, strict: bool = False) -> tuple[Tensor]:
    """A threshold without a membrane, as one node of a step: `fire`, for a model that calls it.

    Args:
        distance: What is compared with 0, any shape.
        surrogate: The derivative used backward.
        strict: Fire above 0 only; otherwise at it too.

    Returns:
        The spikes, as the only part of a tuple: a node without next states.
    """
    return (fire(distance, surrogate, strict=strict),)

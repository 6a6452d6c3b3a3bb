"""Weights of one or two bits: what a synapse reads in place of its float weight.

Both functions are nodes of a step between the weight and the synapse that reads it; the float
weight stays the parameter that is trained. Each is scale * signs, product for product, with the
two parts as `binary_parts` and `ternary_parts` give them: whoever moves the scale behind the sum
takes them apart there.

Rastegari et al., 2016, arXiv:1603.05279 (binary, a scale per output channel); Li et al., 2016,
arXiv:1605.04711 (ternary); both as Hao et al., 2024, arXiv:2410.07547 use them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIMIT = 1.0
"""Beyond this size a weight gets no gradient, so that it cannot grow without effect."""


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, quantised: Tensor) -> Tensor:
        return quantised.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (weight,) = ctx.saved_tensors
        inside = weight.abs() <= LIMIT
        return grad_outputs[0] * inside.to(weight.dtype), None


def binarized(weight: Tensor, *, axis: int) -> Tensor:
    """Every weight becomes plus or minus its channel's mean size; zero counts as plus.

    The gradient reaches the weight unchanged where its size is at most 1, and not at all
    elsewhere; the scale is a constant in the backward pass.

    Args:
        weight: A synapse's weight, any shape.
        axis: Its axis of output channels.

    Returns:
        scale * signs of `binary_parts`, of the weight's shape and dtype.
    """
    signs, scale = binary_parts(weight, axis=axis)
    return _StraightThrough.apply(weight, scale * signs)  # type: ignore[no-untyped-call, no-any-return]


def ternarized(weight: Tensor, *, axis: int | None, threshold: float = 0.7) -> Tensor:
    """Weights near zero become zero, the others plus or minus the mean size of those others.

    The gradient is that of `binarized`.

    Args:
        weight: A synapse's weight, any shape.
        axis: Its axis of output channels, each with a scale of its own; None is one scale.
        threshold: How large a weight must be to survive, in mean sizes.

    Returns:
        scale * signs of `ternary_parts`, of the weight's shape and dtype.
    """
    signs, scale = ternary_parts(weight, axis=axis, threshold=threshold)
    return _StraightThrough.apply(weight, scale * signs)  # type: ignore[no-untyped-call, no-any-return]


def binary_parts(weight: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """What `binarized` multiplies: signs -1 or 1 [*weight.shape], and the scale that broadcasts."""
    held = weight.detach()
    signs = torch.where(held >= 0, torch.ones_like(held), -torch.ones_like(held))
    return signs, held.abs().mean(_others(held, axis), keepdim=True)


def ternary_parts(
    weight: Tensor, *, axis: int | None, threshold: float = 0.7
) -> tuple[Tensor, Tensor]:
    """What `ternarized` multiplies: signs -1, 0 or 1, and the scale that broadcasts.

    Weights are taken as at most 1 in size. Without a survivor the scale is 0.
    """
    held = weight.detach().clamp(-LIMIT, LIMIT)
    size, others = held.abs(), _others(held, axis)
    survives = (size > threshold * size.mean(others, keepdim=True)).to(held.dtype)
    count = survives.sum(others, keepdim=True).clamp(min=1)
    return held.sign() * survives, (size * survives).sum(others, keepdim=True) / count


def _others(weight: Tensor, axis: int | None) -> tuple[int, ...]:
    """Every axis but one, or all of them."""
    kept = None if axis is None else axis % weight.dim()
    return tuple(i for i in range(weight.dim()) if i != kept)


QUANTISED: tuple[Callable[..., Tensor], ...] = (binarized, ternarized)
"""Every function that quantises a weight; all are pure."""

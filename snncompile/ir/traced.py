"""Synapses whose value comes from spikes and whose gradient comes from accumulations.

One synaptic operation forward where OTTT's published code takes two (Xiao et al., 2022,
arXiv:2210.04195). The gradient of the weight is that of the operation on the accumulation, and
the gradient of what comes in goes to the accumulation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_backward = torch.ops.aten.convolution_backward.default


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        spikes: Tensor,
        accumulation: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(accumulation, weight)
        return functional.linear(spikes, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), (accumulation, weight) = grad_outputs, ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        wanted = ctx.needs_input_grad
        return (
            None,
            gradient @ weight if wanted[1] else None,
            rows.T @ accumulation.flatten(0, -2) if wanted[2] else None,
            rows.sum(0) if wanted[3] else None,
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,  # noqa: ANN401
        spikes: Tensor,
        accumulation: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: tuple[Any, ...],
    ) -> Tensor:
        ctx.save_for_backward(accumulation, weight)
        ctx.settings = settings
        return torch.convolution(spikes, weight, bias, *settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), (accumulation, weight) = grad_outputs, ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[1:4])
        channels = [gradient.shape[1]]
        found = _backward(gradient, accumulation, weight, channels, *ctx.settings, wanted)
        return (None, *found, None)


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:  # noqa: ANN401
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, grad_outputs[0]


def traced_linear(
    spikes: Tensor, accumulation: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``spikes @ weight.T + bias``, with the gradient of ``accumulation @ weight.T + bias``.

    Args:
        spikes: [N, ..., in].
        accumulation: Of the spikes, [N, ..., in].
        weight: [out, in].
        bias: [out], or None.

    Returns:
        [N, ..., out].
    """
    return _Linear.apply(spikes.detach(), accumulation, weight, bias)  # type: ignore[no-untyped-call, no-any-return]


def traced_convolution(  # noqa: PLR0913, PLR0917
    spikes: Tensor,
    accumulation: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """``torch.convolution`` of the spikes, with its gradient at the accumulation.

    Args:
        spikes: [N, in, ...].
        accumulation: Of the spikes, [N, in, ...].
        weight: As torch.convolution takes it.
        bias: [out], or None.
        stride: One number a dimension, as all that follow.
        padding: Zeros on both sides.
        dilation: Distance between the weight's entries.
        transposed: A transposed convolution.
        output_padding: What a transposed one adds on one side.
        groups: Groups of channels.

    Returns:
        [N, out, ...].
    """
    settings = (stride, padding, dilation, transposed, output_padding, groups)
    return _Convolution.apply(spikes.detach(), accumulation, weight, bias, settings)  # type: ignore[no-untyped-call, no-any-return]


def exchanged(value: Tensor, carrier: Tensor) -> Tensor:
    """``value``, with the gradient of ``carrier``; both of one shape."""
    return _Exchanged.apply(value.detach(), carrier)  # type: ignore[no-untyped-call, no-any-return]

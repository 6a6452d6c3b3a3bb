"""A Linear on spikes as a torch operator, which adds up events where few inputs are active.

The operator looks at its operands: at a sample of the rows, how many inputs are active and whether
they all have one size; at all of them, if events promise to be faster. What it falls back to is the
dense product, with its bits. For the backward pass it keeps the spikes as bits where it has them.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from snncompile.errors import SnncompileError
from snncompile.ir.events import numbered
from snncompile.kernels import arena, events
from snncompile.kernels import event_costs as costs
from snncompile.kernels.bits import Packed, pack, row_bytes, unpack
from snncompile.kernels.operands import is_plain
from snncompile.kernels.operator import operator

_SAMPLE = 64
"""About how many rows are looked at first; up to eight times as many are looked at at once."""


@operator("snncompile::event_linear")
def event_linear(
    spikes: Tensor, weight: Tensor, bias: Tensor | None, below: float | None, report: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A Linear.

    Args:
        spikes: [R, M], float32 or float64 on the CPU; any values are right, few ones are fast.
        weight: [M', M].
        bias: [M'], or None.
        below: Add up events where at most this share of the inputs is active; None measures which
            way is faster.
        report: The number of the `Events` to report to, if there is one.

    Returns:
        The product, [R, M']; the spikes as bits; and what a bit stands for, 0 where there are none.
    """
    rows, inputs = spikes.shape
    share, out, packed = _product(spikes, weight, bias, below)
    tell(report, share, packed)
    if packed is None:
        packed = Packed(spikes.new_empty(rows, row_bytes(inputs), dtype=torch.uint8), 0)
    return out, packed.bits, spikes.new_full((), packed.size, dtype=torch.float64)


def tell(report: int, share: float | None, packed: Packed | None) -> None:
    """Report a call: which share of its inputs was active, and the bits it added up, if any."""
    seen = numbered(report)
    if seen is not None:
        seen.saw(share, by_events=packed is not None)


def _product(
    spikes: Tensor, weight: Tensor, bias: Tensor | None, below: float | None
) -> tuple[float | None, Tensor, Packed | None]:
    """The share of active inputs, if known; the product, and the bits it was made from, if any."""
    (rows, inputs), outputs = spikes.shape, len(weight)
    every = 1 if rows < 8 * _SAMPLE else rows // _SAMPLE
    seen = pack(spikes[::every]) if events.fits(rows, inputs, outputs, spikes.dtype) else None
    share = None if seen is None else events.active(seen.bits) / (len(seen.bits) * inputs)

    def dense() -> tuple[Tensor, Packed | None]:
        return linear(spikes, weight, bias), None

    def added() -> tuple[Tensor, Packed | None] | None:
        packed = seen if every == 1 else pack(spikes)
        return None if packed is None else (events.product(packed, weight, bias), packed)

    price = partial(costs.price, "product", rows, weight)
    return share, *costs.chosen(share, below, price, dense, added)


@event_linear.register_fake
def _(
    spikes: Tensor, weight: Tensor, bias: Tensor | None, below: float | None, report: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows, inputs = spikes.shape
    bits = spikes.new_empty(rows, row_bytes(inputs), dtype=torch.uint8)
    out = spikes.new_empty(rows, len(weight))
    return out, bits, spikes.new_empty((), dtype=torch.float64)


@operator("snncompile::event_weight_gradient")
def event_weight_gradient(  # noqa: PLR0913, PLR0917
    gradient: Tensor,
    spikes: Tensor | None,
    bits: Tensor,
    size: Tensor,
    inputs: int,
    below: float | None,
) -> Tensor:
    """The gradient of the weight.

    Args:
        gradient: Of the product, [R, M'].
        spikes: [R, M]; None where the bits hold them.
        bits: As the operator returned them.
        size: Likewise.
        inputs: M.
        below: As for the operator.

    Returns:
        [M', M].
    """
    rows, outputs = gradient.shape
    packed = Packed(bits, float(size))

    def dense() -> Tensor:
        seen = unpack(packed, inputs, gradient.dtype) if spikes is None else spikes
        return gradient.t() @ seen

    def added() -> Tensor:
        return events.weight_gradient(packed, gradient, inputs)

    if packed.size == 0:
        return dense()
    if below is not None:
        return added()
    kind = costs.kind("gradient", rows, torch.Size((outputs, inputs)), gradient.dtype)
    count = costs.units(events.active(bits), rows, inputs, outputs)
    return costs.faster(kind, (rows, count), dense, added)


@event_weight_gradient.register_fake
def _(  # noqa: PLR0913, PLR0917
    gradient: Tensor,
    spikes: Tensor | None,
    bits: Tensor,
    size: Tensor,
    inputs: int,
    below: float | None,
) -> Tensor:
    return gradient.new_empty(gradient.shape[1], inputs)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    spikes, weight, bias, ctx.below, _ = inputs
    _, bits, size = output
    ctx.mark_non_differentiable(bits, size)
    ctx.set_materialize_grads(False)
    ctx.biased, ctx.inputs = bias is not None, spikes.shape[1]
    packed = type(size) is Tensor and bool(size != 0)
    ctx.save_for_backward(None if packed else spikes, weight, bits, size)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
    spikes, weight, bits, size = ctx.saved_tensors
    gradient = gradients[0]
    if gradient is None:
        return (None,) * 5
    need_spikes, need_weight, need_bias = ctx.needs_input_grad[:3]
    of_spikes = _multiplied(gradient, weight) if need_spikes else None
    of_weight = of_bias = None
    if need_weight:
        given = (gradient, spikes, bits, size, ctx.inputs, ctx.below)
        of_weight = event_weight_gradient(*given)
    if ctx.biased and need_bias:
        of_bias = gradient.sum(0)
    return of_spikes, of_weight, of_bias, None, None


event_linear.register_autograd(_differentiate, _keep)


def _multiplied(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the spikes, on memory that is used again where it is memory at all."""
    if torch.is_grad_enabled() or not (is_plain(gradient) and is_plain(weight)):
        return gradient @ weight
    out = arena.empty(gradient, (len(gradient), weight.shape[1]), gradient.dtype)
    return torch.mm(gradient, weight, out=out)


def refuse(ctx: Any, *gradients: Any) -> None:  # noqa: ANN401
    """The derivative of a gradient, which there is none of."""
    raise SnncompileError(
        "a synapse by events has no second derivative; leave the pass 'event-driven' out, or set "
        "SNNCOMPILE_KERNELS=off, to differentiate the dense product instead"
    )


event_weight_gradient.register_autograd(refuse)

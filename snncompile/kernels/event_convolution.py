"""A Conv2d on spikes as a torch operator, which adds up events where few inputs are active.

See `event_operators`, which it follows in all but this: a map's output has the memory format that
torch's convolution gives it, contiguous or channels-last, and sums over events write either.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from snncompile.kernels import bits as rows_of_bits
from snncompile.kernels import event_costs as costs
from snncompile.kernels import event_patches as patches
from snncompile.kernels.bits import Packed, row_bytes
from snncompile.kernels.event_operators import refuse, tell
from snncompile.kernels.event_patches import LAST, Strides
from snncompile.kernels.events import active
from snncompile.kernels.operator import operator

_IMAGES, _LINES = 8, 4
"""About how many images are looked at first, and how many lines of each."""


@operator("snncompile::event_convolution")
def event_convolution(  # noqa: PLR0913, PLR0917
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    below: float | None,
    report: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """A Conv2d over one group of channels, with zeros around the map.

    Args:
        spikes: [N, C, H, W], float32 or float64 on the CPU; any values are right, few are fast.
        weight: [M', C, K, L].
        bias: [M'], or None.
        strides: Stride, padding and dilation, each vertically and horizontally.
        below: As for `event_operators.event_linear`; so is `report`.
        report: Its number.

    Returns:
        The product, [N, M', H', W']; bits of the spikes, [N, H, W, B]; what a bit is, 0 for none.
    """
    moves, form = _strides(strides), _form(spikes, weight)
    sizes = spikes.shape, weight.shape, moves
    share = _share(spikes) if patches.fits(*sizes, spikes.dtype) else None

    def dense() -> tuple[Tensor, Packed | None]:
        return conv2d(spikes, weight, bias, *moves).contiguous(memory_format=form), None

    def added() -> tuple[Tensor, Packed | None] | None:
        packed = patches.pack(spikes)
        return packed and (patches.convolution(packed, weight, bias, moves, form), packed)

    def price(share: float) -> tuple[Hashable, tuple[int, float]]:
        return _price(("convolution", form), share * spikes.numel(), *sizes, spikes.dtype)

    out, packed = costs.chosen(share, below, price, dense, added)
    tell(report, share, packed)
    if packed is None:
        packed = Packed(_no_bits(spikes), 0)
    return out, packed.bits, spikes.new_full((), packed.size, dtype=torch.float64)


def _strides(numbers: Sequence[int]) -> Strides:
    top, left, *others = numbers
    return Strides((top, left), (others[0], others[1]), (others[2], others[3]))


def _form(spikes: Tensor, weight: Tensor) -> torch.memory_format:
    """The output's memory format: channels-last if one of the operands is."""
    last = patches.is_last(spikes) or patches.is_last(weight)
    return LAST if last else torch.contiguous_format


def _no_bits(spikes: Tensor) -> Tensor:
    images, channels, height, width = spikes.shape
    return spikes.new_empty(images, height, width, row_bytes(channels), dtype=torch.uint8)


def _share(spikes: Tensor) -> float | None:
    """Which part of a sample is active; None where it has more than one size."""
    images, _, lines, _ = spikes.shape
    sample = spikes[:: max(1, images // _IMAGES), :, :: max(1, lines // _LINES)]
    packed = rows_of_bits.pack(sample.reshape(1, -1))
    return None if packed is None else active(packed.bits) / sample.numel()


def _price(  # noqa: PLR0913, PLR0917
    what: Hashable,
    ones: float,
    spikes: torch.Size,
    weight: torch.Size,
    moves: Strides,
    dtype: torch.dtype,
) -> tuple[Hashable, tuple[int, float]]:
    """What `costs.faster` asks for: an active input is an event under every tap that reads it."""
    outputs, channels, *kernel = weight
    rows, taps = spikes[0] * math.prod(moves.image(spikes, weight)), math.prod(kernel)
    events = ones * taps / math.prod(moves.stride)
    words = row_bytes(channels) // 8
    count = costs.units(events, rows, 0, outputs) + 14 * math.prod(spikes)
    count += 30 * rows * taps * words + 25 * taps * 64 * words * outputs
    return costs.kind((what, moves, spikes[2:]), rows, weight, dtype), (rows, count)


@event_convolution.register_fake
def _(  # noqa: PLR0913, PLR0917
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    below: float | None,
    report: int,
) -> tuple[Tensor, Tensor, Tensor]:
    image = _strides(strides).image(spikes.shape, weight.shape)
    shape = spikes.shape[0], weight.shape[0], *image
    out = spikes.new_empty(shape).contiguous(memory_format=_form(spikes, weight))
    return out, _no_bits(spikes), spikes.new_empty((), dtype=torch.float64)


@operator("snncompile::event_convolution_gradient")
def event_convolution_gradient(  # noqa: PLR0913, PLR0917
    gradient: Tensor,
    spikes: Tensor | None,
    bits: Tensor,
    size: Tensor,
    weight: Tensor,
    strides: Sequence[int],
    below: float | None,
) -> Tensor:
    """The gradient of the weight.

    Args:
        gradient: Of the product, [N, M', H', W'].
        spikes: [N, C, H, W]; None where the bits hold them.
        bits: As the operator returned them; so is `size`.
        size: What a bit is.
        weight: [M', C, K, L]; only its size and memory format are read.
        strides: As for the operator; so is `below`.
        below: The limit.
    """
    moves, packed = _strides(strides), Packed(bits, float(size))
    shape = torch.Size((bits.shape[0], weight.shape[1], *bits.shape[1:3]))

    def dense() -> Tensor:
        seen = patches.unpack(packed, shape[1], gradient.dtype) if spikes is None else spikes
        _, found, _ = _backward(gradient, seen, weight, moves, (False, True, False))
        assert found is not None
        return found.contiguous()

    def added() -> Tensor:
        return patches.weight_gradient(packed, gradient, weight.shape, moves)

    if packed.size == 0:
        return dense()
    if below is not None:
        return added()
    what = ("gradient", patches.is_last(gradient))
    price = _price(what, active(bits), shape, weight.shape, moves, gradient.dtype)
    return costs.faster(*price, dense, added)


@event_convolution_gradient.register_fake
def _(  # noqa: PLR0913, PLR0917
    gradient: Tensor,
    spikes: Tensor | None,
    bits: Tensor,
    size: Tensor,
    weight: Tensor,
    strides: Sequence[int],
    below: float | None,
) -> Tensor:
    return weight.new_empty(weight.shape)


event_convolution_gradient.register_autograd(refuse)


def _backward(
    gradient: Tensor, spikes: Tensor, weight: Tensor, moves: Strides, need: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Torch's gradients of a convolution by input, weight and bias, those that are needed."""
    stride, padding, dilation = (list(pair) for pair in moves)
    settings = ([len(weight)], stride, padding, dilation, False, [0, 0], 1, list(need))
    found: Any = torch.ops.aten.convolution_backward(gradient, spikes, weight, *settings)
    return found[0], found[1], found[2]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    spikes, weight, bias, ctx.strides, ctx.below, _ = inputs
    _, bits, size = output
    ctx.mark_non_differentiable(bits, size)
    ctx.set_materialize_grads(False)
    ctx.traced = type(size) is not Tensor
    packed = not ctx.traced and bool(size != 0)
    ctx.biased, ctx.shape = bias is not None, spikes.shape
    ctx.form = LAST if patches.is_last(spikes) else torch.contiguous_format
    ctx.save_for_backward(None if packed else spikes, weight, bits, size)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
    spikes, weight, bits, size = ctx.saved_tensors
    gradient, moves = gradients[0], _strides(ctx.strides)
    if gradient is None:
        return (None,) * 6
    need_spikes, need_weight, need_bias = ctx.needs_input_grad[:3]
    need_bias = need_bias and ctx.biased
    if spikes is not None and not ctx.traced:
        need = (need_spikes, need_weight, need_bias)
        return *_backward(gradient, spikes, weight, moves, need), None, None, None
    of_bias = gradient.sum((0, 2, 3)) if need_bias else None
    of_spikes = of_weight = None
    if need_spikes:
        known = spikes if spikes is not None else _unset(ctx.shape, weight.dtype, ctx.form)
        of_spikes = _backward(gradient, known, weight, moves, (True, False, False))[0]
    if need_weight:
        given = (gradient, spikes, bits, size, weight, ctx.strides, ctx.below)
        of_weight = event_convolution_gradient(*given)
    return of_spikes, of_weight, of_bias, None, None, None


def _unset(shape: torch.Size, dtype: torch.dtype, form: torch.memory_format) -> Tensor:
    """A map that nothing is read from but its size and memory format."""
    return torch.empty(shape, dtype=dtype, memory_format=form)


event_convolution.register_autograd(_differentiate, _keep)

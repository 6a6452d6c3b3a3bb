"""Convolutions of spikes as sums over events: the products of `events` on patches of a map.

Maps of bits are [N, H, W, B]: a pixel's channels, padded with zeros to whole words of 8 bytes.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from snncompile.kernels import arena
from snncompile.kernels import bits as rows_of_bits
from snncompile.kernels.bits import Packed, row_bytes
from snncompile.kernels.events import active, number_of
from snncompile.kernels.library import functions
from snncompile.kernels.patch_source import SOURCE
from snncompile.kernels.threads import share

_LONGEST = 2**31
"""Events are numbered with 32 bits."""

LAST = torch.channels_last


class Strides(NamedTuple):
    """How a kernel moves over a map, vertically and horizontally; around the map are zeros."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def image(self, map_: torch.Size, weight: torch.Size) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, padding, dilation in zip(
                map_[2:], weight[2:], *self, strict=True
            )
        )
        return height, width


def fits(map_: torch.Size, weight: torch.Size, strides: Strides, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for a map [N, C, H, W] and a weight [M', C, K, L]."""
    height, width = strides.image(map_, weight)
    some = height > 0 and width > 0 and map_.numel() > 0 and weight.numel() > 0
    inputs = 8 * row_bytes(map_[1]) * math.prod(weight[2:])
    known = some and map_[0] * height * width * inputs < _LONGEST
    return known and functions(SOURCE, dtype) is not None


def is_last(tensor: Tensor) -> bool:
    """Whether a map's or a weight's channels are the innermost dimension in memory."""
    ordered = tensor.stride(1) == 1 and tensor.stride(3) == tensor.shape[1]
    return ordered and tensor.is_contiguous(memory_format=LAST)


def pack(spikes: Tensor) -> Packed | None:
    """Pack a map.

    Args:
        spikes: [N, C, H, W], float32 or float64 on the CPU, contiguous or channels-last.

    Returns:
        The bits, [N, H, W, B]; None where the values are not 0 and one finite other.
    """
    images, channels, height, width = spikes.shape
    shape = images, height, width, row_bytes(channels)
    if is_last(spikes):
        whole = channels % 64 == 0  # words: then pixels need no padding, and an image is a row
        row = height * width * channels if whole else channels
        packed = rows_of_bits.pack(spikes.permute(0, 2, 3, 1).reshape(-1, row))
        return None if packed is None else Packed(packed.bits.view(shape), packed.size)
    library: Any = functions(SOURCE, spikes.dtype)
    spikes = spikes.contiguous()
    bits = torch.empty(shape, dtype=torch.uint8)
    sizes = torch.empty(images, dtype=torch.float64)
    given = (spikes, channels, height * width, bits, sizes)
    share(library.pack_planes, images, given, spikes.numel())
    size = rows_of_bits.one_size(sizes)
    return None if size is None else Packed(bits, size)


def unpack(packed: Packed, channels: int, dtype: torch.dtype) -> Tensor:
    """The map that was packed, [N, C, H, W] and channels-last."""
    flat = Packed(packed.bits.flatten(0, 2), packed.size)
    values = rows_of_bits.unpack(flat, channels, dtype)
    return values.view(*packed.bits.shape[:3], channels).permute(0, 3, 1, 2)


def convolution(
    packed: Packed, weight: Tensor, bias: Tensor | None, strides: Strides, form: torch.memory_format
) -> Tensor:
    """What a Conv2d makes of spikes.

    Args:
        packed: A map of spikes, [N, H, W, B].
        weight: [M', C, K, L], float32 or float64 on the CPU.
        bias: [M'], or None.
        strides: How the kernel moves.
        form: The output's memory format, contiguous or channels-last.

    Returns:
        [N, M', H', W'].
    """
    library: Any = functions(SOURCE, weight.dtype)
    map_, image = _map(packed, weight.shape, strides)
    outputs, inputs = len(weight), math.prod(weight.shape[2:]) * 8 * packed.bits.shape[3]
    by_tap = _by_tap(weight, packed)
    panels = weight.new_empty(number_of(library.padded, outputs) * inputs)
    parts = number_of(library.parts, outputs)
    share(library.panels, parts, (by_tap, outputs, inputs, panels), panels.numel())
    offset = weight.new_zeros(outputs) if bias is None else bias.contiguous()
    last = form == LAST
    shape = (len(packed.bits), *image, outputs) if last else (len(packed.bits), outputs, *image)
    out = arena.empty(weight, shape, weight.dtype)
    pixels = math.prod(image)
    rows, planes = len(packed.bits) * pixels, 0 if last else pixels
    given = (packed.bits, map_, panels, offset, packed.size, outputs, planes, out)
    share(library.convolve, rows, given, rows * outputs)
    return out.permute(0, 3, 1, 2) if last else out


def weight_gradient(
    packed: Packed, gradient: Tensor, weight: torch.Size, strides: Strides
) -> Tensor:
    """The gradient of a Conv2d's weight.

    Args:
        packed: A map of spikes, [N, H, W, B].
        gradient: Of its output, [N, M', H', W'], float32 or float64 on the CPU.
        weight: M', C, K, L.
        strides: How the kernel moves.

    Returns:
        [M', C, K, L].
    """
    library: Any = functions(SOURCE, gradient.dtype)
    map_, image = _map(packed, weight, strides)
    gradient = gradient.permute(0, 2, 3, 1).contiguous()
    rows, outputs, channels = len(gradient) * math.prod(image), weight[0], weight[1]
    out = gradient.new_empty(outputs, *weight[2:], 8 * packed.bits.shape[3])
    ones = active(packed.bits)
    given = (packed.bits, ones, map_, gradient, packed.size, rows, outputs, out)
    share(library.differentiate, number_of(library.parts, outputs), given, rows * outputs)
    return out[..., :channels].permute(0, 3, 1, 2).contiguous()


def _by_tap(weight: Tensor, packed: Packed) -> Tensor:
    """The weight as a Linear on patches has it: [M', K, L, C], channels padded to words."""
    missing = 8 * packed.bits.shape[3] - weight.shape[1]
    return pad(weight.permute(0, 2, 3, 1), (0, missing)).contiguous()


def _map(packed: Packed, weight: torch.Size, strides: Strides) -> tuple[Tensor, tuple[int, int]]:
    """What C calls a map, and the size of an output image."""
    images, height, width, bytes_ = packed.bits.shape
    image = strides.image(torch.Size((images, weight[1], height, width)), weight)
    words = bytes_ // 8
    taken = (height, width, words, *weight[2:], *strides.stride, *strides.padding)
    return torch.tensor((*taken, *strides.dilation, *image)), image

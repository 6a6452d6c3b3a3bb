"""The four receptive-field windows of a feature map, and how membranes pass between them.

A map [N, C, H, W] is cut into a window at each corner, in the order top left, top right, bottom
left, bottom right, and windows are put together to a map again. Everything here is written with
slices, concatenations and arithmetic only, so that it works on tensors as well as on fx proxies
that record a graph.

Reference: Yao, Wu, Chen, Zhang. Training a General Spiking Neural Network with Improved Efficiency
and Minimum Latency. ACML 2023, arXiv:2401.10843; the formulas are those of its authors' code.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Span: TypeAlias = Literal["half", "three-quarters"]
"""How much of each side a window takes: halves meet, three quarters overlap."""

Projection: TypeAlias = Literal["sine", "mean"]
"""Which function makes one membrane of two; see `project`."""

SIDE = {"half": 2, "three-quarters": 4}
"""What a map's height and width must be multiples of."""


class Window(NamedTuple):
    """A rectangle of a map: its first row and column, and its size."""

    top: int
    left: int
    height: int
    width: int


def windows(height: int, width: int, span: Span) -> tuple[Window, ...]:
    """The four windows of a map, in the order in which they are processed.

    Args:
        height: Of the map; a multiple of `SIDE`.
        width: Of the map, likewise.
        span: How much of each side a window takes.

    Raises:
        ValueError: A side is no such multiple.
    """
    if height % SIDE[span] or width % SIDE[span]:
        raise ValueError(f"a map of {height}x{width} has no windows of {span} of its sides")
    share = 2 if span == "half" else 3
    rows, columns = (side * share // SIDE["three-quarters"] for side in (height, width))
    return tuple(
        Window(top, left, rows, columns)
        for top in (0, height - rows)
        for left in (0, width - columns)
    )


def cut(values: Tensor, window: Window) -> Tensor:
    """The part of a map [N, C, H, W] in a window, [N, C, h, w]."""
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    return values[:, :, rows, columns]


def stitch(pieces: Sequence[Tensor], places: Sequence[Window]) -> Tensor:
    """The map of which these are the four windows; where they overlap, their average.

    Args:
        pieces: One a window, each [N, C, h, w].
        places: The windows, as `windows` returns them.

    Returns:
        The map, [N, C, H, W].
    """
    _, right, below, _ = places
    upper = _join(pieces[0], pieces[1], 3, right.left, right.width)
    lower = _join(pieces[2], pieces[3], 3, right.left, right.width)
    return _join(upper, lower, 2, below.top, below.height)


def _join(first: Tensor, second: Tensor, axis: int, start: int, length: int) -> Tensor:
    """Two pieces of a length along an axis, of which the second starts somewhere in the first."""
    if start == length:
        return torch.cat([first, second], axis)
    whole = (slice(None),) * axis
    shared = first[(*whole, slice(start, length))] + second[(*whole, slice(0, length - start))]
    alone = first[(*whole, slice(0, start))], second[(*whole, slice(length - start, length))]
    return torch.cat([alone[0], shared * 0.5, alone[1]], axis)


def project(first: Tensor, second: Tensor, projection: Projection) -> Tensor:
    """One membrane of two: the projection function P.

    "sine" is ``2 sin(pi/4 * first * cos(pi/4 * second))``, in [-2, 2]; "mean" is their mean.

    Args:
        first: A membrane, any shape.
        second: Another of that shape.
        projection: Which function.
    """
    if projection == "mean":
        return (first + second) * 0.5
    quarter = math.pi / 4
    return torch.sin(first * quarter * torch.cos(second * quarter)) * 2.0

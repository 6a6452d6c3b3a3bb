"""The one-step method in plain loops over float64 arrays, written from its equations.

Yao et al., ACML 2023, arXiv:2401.10843, as its authors coded it. Maps are [C][H][W] of one sample.
"""

# pyright: basic

import math
from collections.abc import Callable

import numpy as np

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Top left, top right, bottom left, bottom right."""


def window_side(side: int, span: str) -> int:
    return side // 2 if span == "half" else 3 * side // 4


def cut(values: np.ndarray, span: str) -> list[np.ndarray]:
    """The four windows, element by element."""
    channels, height, width = values.shape
    rows, columns = window_side(height, span), window_side(width, span)
    pieces = []
    for down, right in CORNERS:
        piece = np.zeros((channels, rows, columns))
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    piece[c, i, j] = values[
                        c, i + down * (height - rows), j + right * (width - columns)
                    ]
        pieces.append(piece)
    return pieces


def stitch(pieces: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Every position is the sum of what the windows have there, over how many have it."""
    channels, rows, columns = pieces[0].shape
    total, count = np.zeros((channels, height, width)), np.zeros((height, width))
    for (down, right), piece in zip(CORNERS, pieces, strict=True):
        for i in range(rows):
            for j in range(columns):
                y, x = i + down * (height - rows), j + right * (width - columns)
                count[y, x] += 1
                total[:, y, x] += piece[:, i, j]
    return total / count


def project(a: float, b: float, projection: str) -> float:
    """P(a, b)."""
    if projection == "mean":
        return (a + b) / 2
    return 2 * math.sin(math.pi / 4 * a * math.cos(math.pi / 4 * b))


def convolve(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3x3 convolution that keeps the size, zeros around."""
    outputs, inputs, _, _ = weight.shape
    _, height, width = values.shape
    result = np.zeros((outputs, height, width))
    for o in range(outputs):
        for y in range(height):
            for x in range(width):
                total = bias[o]
                for c in range(inputs):
                    for i in (-1, 0, 1):
                        for j in (-1, 0, 1):
                            if 0 <= y + i < height and 0 <= x + j < width:
                                total += weight[o, c, i + 1, j + 1] * values[c, y + i, x + j]
                result[o, y, x] = total
    return result


def fire(
    current: np.ndarray, membrane: np.ndarray, decay: float, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """A leaky neuron with a soft reset that fires at its threshold."""
    spikes, after = np.zeros(current.shape), np.zeros(current.shape)
    for index in np.ndindex(current.shape):
        charged = decay * membrane[index] + current[index]
        spikes[index] = 1.0 if charged >= threshold else 0.0
        after[index] = charged - threshold * spikes[index]
    return spikes, after


def combined(a: np.ndarray, b: np.ndarray, projection: str) -> np.ndarray:
    """P at every position."""
    result = np.zeros(a.shape)
    for index in np.ndindex(a.shape):
        result[index] = project(float(a[index]), float(b[index]), projection)
    return result


Layer = tuple[np.ndarray, np.ndarray]
"""A convolution: weight and bias."""


def two_layers(  # noqa: PLR0913
    values: np.ndarray,
    first: Layer,
    second: Layer,
    *,
    span: str,
    projection: str,
    decay: float = 0.5,
    threshold: float = 1.0,
    encode: Callable[[np.ndarray, int], np.ndarray] = lambda piece, window: piece,
) -> np.ndarray:
    """A convolutional module over the windows: c1 is handed as it is, c2 becomes P(c1, c2)."""
    outputs: list[np.ndarray] = []
    c1 = c2 = None
    for window, piece in enumerate(cut(values, span)):
        current = convolve(encode(piece, window), *first)
        spikes, c1 = fire(current, np.zeros(current.shape) if c1 is None else c1, decay, threshold)
        current = convolve(spikes, *second)
        spikes, c2 = fire(current, np.zeros(current.shape) if c2 is None else c2, decay, threshold)
        c2 = combined(c1, c2, projection)
        outputs.append(spikes)
    return stitch(outputs, *values.shape[1:])


def handed_up(  # noqa: PLR0913
    currents: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    below: np.ndarray,
    *,
    projection: str,
    decay: float = 0.5,
    threshold: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A layer of halves that receives P(m1, m2), P(m1', m2), P(m3, m2'), P(m4, m3')."""
    m, pieces = cut(below, "half"), cut(values, "half")
    outputs: list[np.ndarray] = []
    mine: list[np.ndarray] = []
    for k, piece in enumerate(pieces):
        if k == 0:
            given = combined(m[0], m[1], projection)
        elif k == 1:
            given = combined(mine[0], m[1], projection)
        else:
            given = combined(m[k], mine[k - 1], projection)
        spikes, after = fire(currents(piece), given, decay, threshold)
        outputs.append(spikes)
        mine.append(after)
    return stitch(outputs, *values.shape[1:]), stitch(mine, *values.shape[1:])

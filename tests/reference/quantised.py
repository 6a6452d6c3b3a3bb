"""Binary and ternary weights as plain loops over float64 numbers, from the papers' equations.

Binary: W_c -> alpha_c sign(W_c), alpha_c the mean of |W_c|, sign(0) = 1 (arXiv:1603.05279).
Ternary: W -> alpha sign(W) where |W| > 0.7 mean |W|, else 0; alpha the mean of |W| over those
that are left (arXiv:1605.04711), after a clip to [-1, 1] (arXiv:2410.07547). Backward, both: the
gradient passes where |W| <= 1.
"""

# pyright: basic

from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def binary(weight: Array, axis: int) -> Array:
    """Every weight's channel along `axis` has its own mean size."""
    channels = np.moveaxis(weight, axis, 0)
    result = np.empty_like(channels)
    for c, channel in enumerate(channels):
        scale = sum(abs(float(w)) for w in channel.flat) / channel.size
        for index in product(*map(range, channel.shape)):
            result[c][index] = scale if channel[index] >= 0 else -scale
    return np.moveaxis(result, 0, axis)


def ternary(weight: Array, threshold: float) -> Array:
    """One scale for the whole tensor."""
    clipped = [min(max(float(w), -1.0), 1.0) for w in weight.flat]
    bound = threshold * sum(map(abs, clipped)) / len(clipped)
    left = [abs(w) for w in clipped if abs(w) > bound]
    scale = sum(left) / len(left) if left else 0.0
    signs = [0 if abs(w) <= bound else (1 if w > 0 else -1) for w in clipped]
    return np.array([scale * sign for sign in signs]).reshape(weight.shape)


def through(weight: Array, gradient: Array) -> Array:
    """The gradient that reaches the weight."""
    passed = [g if abs(w) <= 1 else 0.0 for w, g in zip(weight.flat, gradient.flat, strict=True)]
    return np.array(passed).reshape(weight.shape)

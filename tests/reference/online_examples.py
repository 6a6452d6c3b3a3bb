"""A perceptron, sequences and losses that the references of online learning are tested on."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from tests.reference import online
from tests.reference.online import Mlp

TIME, BATCH = 10, 5

SUM_ORDER = 1e-12
"""Relative and absolute, in float64: two references add in another order."""

UPDATES = 1e-10
"""As `SUM_ORDER`, after fifty updates that build on each other."""


def slope(distance: Tensor) -> Tensor:
    """Of SpikingJelly's sigmoid surrogate, alpha 4."""
    sigmoid = torch.sigmoid(4.0 * distance)
    return 4.0 * sigmoid * (1 - sigmoid)


def make(
    widths: tuple[int, ...] = (7, 12, 9, 4),
    decays: tuple[float, ...] = (0.5, 0.75),
    threshold: float = 1.0,
) -> Mlp:
    """Float64; the last pair of widths is a read-out where there is one decay less."""
    layers = [nn.Linear(a, b).double() for a, b in pairwise(widths)]
    weights = [3.0 * threshold * each.weight.detach() for each in layers]
    biases = [each.bias.detach() + 0.25 * threshold for each in layers]
    return Mlp(weights, biases, list(decays), slope, threshold)


def sequence(width: int = 7) -> Tensor:
    return torch.rand(TIME, BATCH, width, dtype=torch.float64)


def squared(width: int = 4) -> online.LossGradient:
    """Of the loss ||y[t] - target[t]||^2 / 2."""
    targets = torch.rand(TIME, BATCH, width, dtype=torch.float64)
    return lambda t, output: output - targets[t]


def assert_same(found: online.Gradients, expected: online.Gradients) -> None:
    assert all(weight.abs().max() > 0 for weight, _ in expected)
    torch.testing.assert_close(found, expected, rtol=SUM_ORDER, atol=SUM_ORDER)


def decayed(values: list[Tensor], decay: float) -> Tensor:
    """The trace of a sequence at its end, as the finite sum that it is."""
    return torch.stack([decay ** (len(values) - 1 - k) * v for k, v in enumerate(values)]).sum(0)

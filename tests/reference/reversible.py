"""The reversible neuron as plain float64 loops over one pair of channels, from its equations.

Forward, with the membrane M charged from (X, V) by M = V + (X - V) / tau and S = [M >= theta]:

    Y1 = S1 + beta X2      V1' = (1 - S1) M1 + alpha V2      M1 from (X1, V1)
    Y2 = S2 + beta X1      V2' = (1 - S2) M2 + alpha V1      M2 from (Y1, V1')

The gradients go backwards through what the forward loop wrote down; nothing is inverted here.
"""

import math
from dataclasses import dataclass

Two = tuple[float, float]


@dataclass(frozen=True)
class Constants:
    """What the equations need; without bits nothing is rounded and nothing saturates."""

    tau: float = 2.0
    theta: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0
    bits: int | None = None
    limit: float = math.inf
    sharpness: float = 2.0

    def rounded(self, value: float) -> float:
        """To the nearest multiple of 2^-bits, ties to even."""
        return value if self.bits is None else round(value * 2**self.bits) / 2**self.bits

    def slope(self, membrane: float) -> float:
        """The derivative of the arctangent surrogate."""
        distance = math.pi / 2 * self.sharpness * (membrane - self.theta)
        return self.sharpness / 2 / (1 + distance**2)


@dataclass(frozen=True)
class Half:
    """One half of a step: its charged membrane, its spike, what its reset leaves."""

    charged: float
    spike: float
    left: float
    inside: bool


@dataclass(frozen=True)
class Step:
    """One step of both halves."""

    output: Two
    membrane: Two
    halves: tuple[Half, Half]


def _half(current: float, membrane: float, c: Constants) -> Half:
    charged = membrane + (current - membrane) / c.tau
    spike = float(charged >= c.theta)
    left = c.rounded(0.0 if spike else charged)
    return Half(charged, spike, min(max(left, -c.limit), c.limit), abs(left) <= c.limit)


def forward(currents: list[Two], c: Constants) -> list[Step]:
    """All steps, from membranes of 0."""
    steps: list[Step] = []
    v1, v2 = 0.0, 0.0
    for given in currents:
        x1, x2 = (c.rounded(x) for x in given)
        first = _half(x1, v1, c)
        y1, after = first.spike + c.beta * x2, first.left + c.alpha * v2
        second = _half(y1, after, c)
        y2 = second.spike + c.beta * x1
        v1, v2 = after, second.left + c.alpha * v1
        steps.append(Step((y1, y2), (v1, v2), (first, second)))
    return steps


def gradients(steps: list[Step], given: list[Two], last: Two, c: Constants) -> list[Two]:
    """Of a loss by the currents, from its gradients by the outputs and the last membranes."""
    found: list[Two] = []
    gv1, gv2 = last
    keep = 1 - 1 / c.tau
    for step, (given1, given2) in zip(reversed(steps), reversed(given), strict=True):
        first, second = step.halves
        gm2 = _charged(second, given2, gv2, c)
        gy1, gafter = given1 + gm2 / c.tau, gv1 + keep * gm2
        gm1 = _charged(first, gy1, gafter, c)
        found.append((c.beta * given2 + gm1 / c.tau, c.beta * gy1))
        gv1, gv2 = c.alpha * gv2 + keep * gm1, c.alpha * gafter
    return found[::-1]


def _charged(half: Half, spike: float, left: float, c: Constants) -> float:
    left = left if half.inside else 0.0
    return (1 - half.spike) * left + c.slope(half.charged) * (spike - half.charged * left)

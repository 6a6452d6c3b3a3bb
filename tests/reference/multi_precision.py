"""Multi-precision neurons as plain loops over float64 numbers, from the paper's equations.

One neuron, t = 0 .. T-1, v[-1] = 0, with I the current:

    m[t] = decay[t] v[t-1] + I[t],   s[t] = max(m[t] - theta[t], 0),   v[t] = min(m[t], theta[t]),

emitting s, or min(max(round(4 s), 0), 15) / 4. Gradients are written out by hand: full, back
through all steps, and online, where v[t-1] is a constant. Hao et al., 2024, arXiv:2410.07547.
"""

# pyright: basic

import math
from collections.abc import Sequence
from typing import NamedTuple

Numbers = Sequence[float]


class Run(NamedTuple):
    """What a neuron did, one number a step."""

    charged: list[float]
    emitted: list[float]
    membranes: list[float]


class Gradients(NamedTuple):
    """The loss by the current, the decay and the threshold of every step."""

    current: list[float]
    decay: list[float]
    threshold: list[float]


def of_step(values: Numbers, t: int) -> float:
    """The value of a step; later steps use the last there is."""
    return values[min(t, len(values) - 1)]


def run(currents: Numbers, decays: Numbers, thresholds: Numbers, *, quantised: bool = False) -> Run:
    result, membrane = Run([], [], []), 0.0
    for t, current in enumerate(currents):
        charged = of_step(decays, t) * membrane + current
        threshold = of_step(thresholds, t)
        size = max(charged - threshold, 0.0)
        membrane = min(charged, threshold)
        result.charged.append(charged)
        result.emitted.append(min(half_to_even(4 * size), 15) / 4 if quantised else size)
        result.membranes.append(membrane)
    return result


def half_to_even(value: float) -> int:
    below = math.floor(value)
    rest = value - below
    up = rest > 0.5 or (rest == 0.5 and below % 2 == 1)
    return below + 1 if up else below


def gradients(
    done: Run, decays: Numbers, thresholds: Numbers, upstream: Numbers, *, online: bool
) -> Gradients:
    """From the loss by what is emitted at every step, which rounding does not change."""
    steps = len(done.charged)
    result = Gradients([0.0] * steps, [0.0] * len(decays), [0.0] * len(thresholds))
    later = 0.0
    for t in reversed(range(steps)):
        fired = done.charged[t] > of_step(thresholds, t)
        by_membrane = 0.0 if online else later
        by_charged = upstream[t] if fired else by_membrane
        before = done.membranes[t - 1] if t else 0.0
        result.current[t] = by_charged
        result.decay[min(t, len(decays) - 1)] += by_charged * before
        result.threshold[min(t, len(thresholds) - 1)] += (by_membrane - upstream[t]) * fired
        later = of_step(decays, t) * by_charged
    return result


def factor(done: Run, decays: Numbers, thresholds: Numbers, t: int) -> float:
    """What the full gradient must be multiplied by to get the online one, with equal upstream.

    chi[t,t] / (chi[t,t] + sum over i > t of chi[i,i] prod over j = t+1 .. i of chi[j,j-1]).
    """
    steps = range(len(done.charged))
    fires = [done.charged[i] > of_step(thresholds, i) for i in steps]
    total, product = float(fires[t]), 1.0
    for i in steps[t + 1 :]:
        product *= of_step(decays, i) * (not fires[i - 1])
        total += fires[i] * product
    return fires[t] / total if total else 0.0

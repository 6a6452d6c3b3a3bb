"""SpikingJelly's neurons as plain loops over Python floats (float64), from their equations.

Every function takes currents[t][i] and returns spikes[t][i] and membranes[t][i], the membrane
being the one after the reset. `reset` is None for a reset by subtraction, else the value of a hard
reset, which is then also the resting potential and the membrane before the first step.
"""

import math
from collections.abc import Callable

Rows = list[list[float]]
Step = Callable[[float, float], tuple[float, float]]


def _run(currents: Rows, start: float, step: Step) -> tuple[Rows, Rows]:
    spikes: Rows = []
    membranes: Rows = []
    before = [start] * len(currents[0])
    for row in currents:
        pairs = [step(x, v) for x, v in zip(row, before, strict=True)]
        spikes.append([s for s, _ in pairs])
        membranes.append([v for _, v in pairs])
        before = membranes[-1]
    return spikes, membranes


def _fire(h: float, threshold: float, reset: float | None) -> tuple[float, float]:
    if h < threshold:
        return 0.0, h
    return 1.0, h - threshold if reset is None else reset


def _leak(x: float, v: float, rate: float, decay_input: bool, reset: float | None) -> float:
    towards = (0.0 if reset is None else reset) - v
    return v + rate * (towards + x) if decay_input else v + rate * towards + x


def integrate_and_fire(
    currents: Rows, *, threshold: float, reset: float | None
) -> tuple[Rows, Rows]:
    """V = V + X."""
    return _run(currents, reset or 0.0, lambda x, v: _fire(v + x, threshold, reset))


def leaky(
    currents: Rows, *, tau: float, decay_input: bool, threshold: float, reset: float | None
) -> tuple[Rows, Rows]:
    """tau dV = -(V - V_reset) + X, or the same with X undivided."""

    def step(x: float, v: float) -> tuple[float, float]:
        return _fire(_leak(x, v, 1 / tau, decay_input, reset), threshold, reset)

    return _run(currents, reset or 0.0, step)


def parametric_leaky(
    currents: Rows, *, weight: float, decay_input: bool, threshold: float, reset: float | None
) -> tuple[Rows, Rows]:
    """The leaky neuron with 1 / tau = sigmoid(weight)."""
    rate = 1 / (1 + math.exp(-weight))

    def step(x: float, v: float) -> tuple[float, float]:
        return _fire(_leak(x, v, rate, decay_input, reset), threshold, reset)

    return _run(currents, reset or 0.0, step)


def rectified_leaky(  # noqa: PLR0913
    currents: Rows, *, tau: float, slope: float, threshold: float, reset: float | None, scale: bool
) -> tuple[Rows, Rows]:
    """F = max(0, k H) is compared; with `scale` a subtraction acts on H: F / k - V_th / k."""

    def step(x: float, v: float) -> tuple[float, float]:
        h = max(0.0, slope * _leak(x, v, 1 / tau, True, reset))
        divisor = slope if scale else 1.0
        fired = h >= threshold
        after = (h - threshold if reset is None else reset * divisor) if fired else h
        return float(fired), after / divisor

    return _run(currents, reset or 0.0, step)


def current_based(
    currents: Rows, *, current_decay: float, decay: float, threshold: float, reset: float | None
) -> tuple[Rows, Rows]:
    """I = a_i I + X, then V = a_v V + I."""
    filtered: Rows = []
    before = [0.0] * len(currents[0])
    for row in currents:
        before = [current_decay * i + x for i, x in zip(before, row, strict=True)]
        filtered.append(before)
    return _run(filtered, reset or 0.0, lambda i, v: _fire(decay * v + i, threshold, reset))


def integer_leaky(
    currents: Rows, *, tau: float, threshold: float, levels: int
) -> tuple[Rows, Rows]:
    """The emitted count is V / V_th, limited to [0, levels] and rounded half to even."""

    def step(x: float, v: float) -> tuple[float, float]:
        h = (1 - 1 / tau) * v + x
        count = float(round(min(max(h / threshold, 0.0), levels)))
        return count, h - count * threshold

    return _run(currents, 0.0, step)

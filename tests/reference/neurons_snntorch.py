"""snnTorch's neurons as plain float64 loops over one neuron's currents, from their equations.

With m the membrane before a step, r = [m > threshold], and b the charged membrane:

    subtract   m' = b - r * threshold
    zero       m' = (1 - r) * b; for Leaky only the old membrane is cleared, the current is kept
    none       m' = b

and the neuron spikes where m' > threshold. With `at_once` (reset_delay=False) a spike that the
delayed reset has not covered resets too: d = s - r, m'' = m' - d * threshold or m' - d * m'.
"""

from typing import NamedTuple


class Reset(NamedTuple):
    """How a neuron resets: "subtract", "zero" or "none"; and whether within the step."""

    kind: str
    threshold: float
    at_once: bool = False


def leaky(currents: list[float], beta: float, reset: Reset) -> list[tuple[float, float]]:
    """(spike, membrane) of every step: b = beta * m + current."""
    steps: list[tuple[float, float]] = []
    membrane = 0.0
    for current in currents:
        fired = float(membrane > reset.threshold)
        kept = (1 - fired) * membrane if reset.kind == "zero" else membrane
        charged = beta * kept + current
        if reset.kind == "subtract":
            charged -= fired * reset.threshold
        spike, membrane = _fire(charged, fired, reset)
        steps.append((spike, membrane))
    return steps


def synaptic(
    currents: list[float], alpha: float, beta: float, reset: Reset, feedback: float = 0.0
) -> list[tuple[float, float, float]]:
    """(spike, current, membrane): i' = alpha * i + x + feedback * s, b = beta * m + i'."""
    steps: list[tuple[float, float, float]] = []
    synapse, membrane, spike = 0.0, 0.0, 0.0
    for current in currents:
        synapse = alpha * synapse + current + feedback * spike
        spike, membrane = _step(beta * membrane + synapse, membrane, reset)
        steps.append((spike, synapse, membrane))
    return steps


def recurrent_leaky(
    currents: list[float], beta: float, feedback: float, reset: Reset
) -> list[tuple[float, float]]:
    """(spike, membrane): b = beta * m + current + feedback * s."""
    steps: list[tuple[float, float]] = []
    membrane, spike = 0.0, 0.0
    for current in currents:
        charged = beta * membrane + current + feedback * spike
        spike, membrane = _step(charged, membrane, reset)
        steps.append((spike, membrane))
    return steps


def lapicque(
    currents: list[float], resistance: float, capacity: float, reset: Reset
) -> list[tuple[float, float]]:
    """(spike, membrane): b = current / C + (1 - 1 / (R C)) * m, one unit of time a step."""
    steps: list[tuple[float, float]] = []
    membrane = 0.0
    for current in currents:
        leak = 1 - 1 / (resistance * capacity)
        spike, membrane = _step(current / capacity + leak * membrane, membrane, reset)
        steps.append((spike, membrane))
    return steps


def _step(charged: float, before: float, reset: Reset) -> tuple[float, float]:
    fired = float(before > reset.threshold)
    if reset.kind == "subtract":
        charged -= fired * reset.threshold
    elif reset.kind == "zero":
        charged *= 1 - fired
    return _fire(charged, fired, reset)


def _fire(membrane: float, fired: float, reset: Reset) -> tuple[float, float]:
    spike = float(membrane > reset.threshold)
    if reset.at_once and reset.kind == "subtract":
        membrane -= (spike - fired) * reset.threshold
    elif reset.at_once and reset.kind == "zero":
        membrane -= (spike - fired) * membrane
    return spike, membrane

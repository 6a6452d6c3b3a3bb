"""Norse's neurons as plain float64 loops over one neuron's currents, from their equations.

Rates are per step: m for the membrane, s for the synapse, a for the adaptation. A neuron spikes
where its membrane is strictly above its threshold.
"""

from typing import NamedTuple


class Constants(NamedTuple):
    """What the equations need; rates already hold the length of a step."""

    m: float = 0.125
    s: float = 0.25
    a: float = 0.0625
    leak: float = 0.25
    threshold: float = 0.75
    reset: float = -0.125
    jump: float = 0.5


def lif(currents: list[float], c: Constants, feedback: float = 0.0) -> list[tuple[float, ...]]:
    """(spike, membrane, synapse): j = i + x + feedback * z; v' = v + m (leak - v + j)."""
    steps: list[tuple[float, ...]] = []
    membrane, synapse, spike = c.leak, 0.0, 0.0
    for current in currents:
        jumped = synapse + current + feedback * spike
        membrane += c.m * (c.leak - membrane + jumped)
        synapse = jumped - c.s * jumped
        spike = float(membrane > c.threshold)
        membrane = c.reset if spike else membrane
        steps.append((spike, membrane, synapse))
    return steps


def lif_box(currents: list[float], c: Constants, *, subtract: bool) -> list[tuple[float, ...]]:
    """(spike, membrane): v' = v + m (x + leak - v)."""
    steps: list[tuple[float, ...]] = []
    membrane = c.leak
    for current in currents:
        membrane += c.m * (current + c.leak - membrane)
        spike = float(membrane > c.threshold)
        if spike:
            membrane = membrane - c.threshold if subtract else c.reset
        steps.append((spike, membrane))
    return steps


def iaf(currents: list[float], c: Constants) -> list[tuple[float, ...]]:
    """(spike, membrane): v' = v + x, from the reset value on."""
    steps: list[tuple[float, ...]] = []
    membrane = c.reset
    for current in currents:
        membrane += current
        spike = float(membrane > c.threshold)
        membrane = c.reset if spike else membrane
        steps.append((spike, membrane))
    return steps


def li(currents: list[float], c: Constants) -> list[tuple[float, ...]]:
    """(membrane, membrane, synapse): as lif, never firing."""
    steps: list[tuple[float, ...]] = []
    membrane, synapse = c.leak, 0.0
    for current in currents:
        jumped = synapse + current
        membrane += c.m * (c.leak - membrane + jumped)
        synapse = jumped - c.s * jumped
        steps.append((membrane, membrane, synapse))
    return steps


def lsnn(currents: list[float], c: Constants, feedback: float = 0.0) -> list[tuple[float, ...]]:
    """(spike, membrane, synapse, adaptation): the current arrives one step late."""
    steps: list[tuple[float, ...]] = []
    membrane, synapse, adaptation, spike = c.leak, 0.0, c.threshold, 0.0
    for current in currents:
        membrane += c.m * (c.leak - membrane + synapse)
        synapse = synapse - c.s * synapse + current + feedback * spike
        adaptation += c.a * (c.threshold - adaptation)
        spike = float(membrane > adaptation)
        membrane = c.reset if spike else membrane
        adaptation += c.jump * spike
        steps.append((spike, membrane, synapse, adaptation))
    return steps

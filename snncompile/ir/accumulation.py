"""Neurons that read and write accumulations: leaky counts of spikes instead of spikes.

With the accumulation ``tr(x)[t] = decay * tr(x)[t-1] + x[t]``, a neuron that subtracts from its
membrane exactly what it emits, v = m - amount * s, has the membrane

    m[t] = tr(I)[t] - decay * amount * tr(s)[t-1]

and needs no other state than its own accumulation: ``tr(I)``, its potential, follows from the
accumulations it receives (Saiin et al., 2024, arXiv:2310.02772). What was accumulated before this
step is a constant in the backward pass, as in online training.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from snncompile.ir.charges import (
    Blend,
    Charge,
    Charged,
    Decay,
    Euler,
    EulerBox,
    Integrate,
    Leak,
    LeakRate,
    Number,
    Relax,
    RelaxRate,
)
from snncompile.ir.resets import DelayedReset, Reset, Subtract


class Leaky(NamedTuple):
    """A charge as decay * membrane + gain * current."""

    decay: Number
    gain: Number


LEAKY: Mapping[type[Charge], Callable[[Any], Leaky]] = {
    Integrate: lambda charge: Leaky(1.0, 1.0),
    Decay: lambda charge: Leaky(charge.decay, 1.0),
    Leak: lambda charge: Leaky(1 - 1 / charge.tau, 1.0),
    Relax: lambda charge: Leaky(1 - 1 / charge.tau, 1 / charge.tau),
    LeakRate: lambda charge: Leaky(1 - charge.rate, 1.0),
    RelaxRate: lambda charge: Leaky(1 - charge.rate, charge.rate),
    Euler: lambda charge: Leaky(1 - charge.rate, charge.rate),
    EulerBox: lambda charge: Leaky(1 - charge.rate, charge.rate),
    Blend: lambda charge: Leaky(charge.decay, charge.gain),
}
"""Every charge that is one, for a membrane that rests at 0."""


def leaky(charge: Charge) -> Leaky:
    """The charge as a leaky sum, its resting potential taken to be 0.

    Raises:
        KeyError: It is none: `Charged` hides its leak.
    """
    return LEAKY[type(charge)](charge)


def is_leaky(charge: object) -> bool:
    """Whether a charge is a leaky sum of currents: it rests at 0 and knows its leak."""
    return type(charge) in LEAKY and getattr(charge, "rest", 0.0) == 0.0


def subtracts(reset: Reset | DelayedReset) -> bool:
    """Whether a reset takes off the membrane what the neuron emitted, and nothing else."""
    return isinstance(reset, Subtract) or reset == "subtract"


def accumulate(current: Tensor, accumulation: Tensor, *, charge: Charge) -> tuple[Tensor, Tensor]:
    """The leaky count of a value: a synapse's trace.

    Args:
        current: The value, [N, ...].
        accumulation: What was accumulated before this step, [N, ...]; a constant backward.
        charge: Its decay is the accumulation's.

    Returns:
        The accumulation twice: as output and as state, each [N, ...].
    """
    accumulated = leaky(charge).decay * accumulation.detach() + current
    return accumulated, accumulated


def accumulating(  # noqa: PLR0913
    potential: Tensor,
    accumulation: Tensor,
    *,
    neuron: Callable[..., tuple[Tensor, ...]],
    charge: Charge,
    threshold: Number,
    reset: Reset | DelayedReset | None = None,
    **settings: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """A neuron that reads accumulations and writes the accumulation of what it emits.

    It decides to fire as the neuron it stands for, at the same membrane.

    Args:
        potential: The accumulated current, [N, ...].
        accumulation: Its own, before this step, [N, ...]; a constant backward.
        neuron: The neuron of `snncompile.ir.neurons` it stands for, which must subtract what it
            emits.
        charge: How that neuron is charged.
        threshold: That neuron's threshold.
        reset: That neuron's reset; None where it subtracts what it emits as it is.
        **settings: That neuron's other settings.

    Returns:
        What it emits and its accumulation, each [N, ...].
    """
    membrane = charged(potential, accumulation, charge=charge, threshold=threshold, reset=reset)
    if reset is not None:
        settings["reset"] = "none" if isinstance(reset, str) else reset
    emitted = neuron(membrane, membrane, charge=Charged(), threshold=threshold, **settings)[0]
    return emitted, leaky(charge).decay * accumulation.detach() + emitted


def charged(
    potential: Tensor,
    accumulation: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    reset: Reset | DelayedReset | None = None,
) -> Tensor:
    """The membrane of an `accumulating` neuron when it decides to fire, [N, ...].

    Args:
        potential: The accumulated current, [N, ...].
        accumulation: Its accumulation before this step, [N, ...].
        charge: How the neuron is charged.
        threshold: Its threshold.
        reset: Its reset: one within the step decays with the membrane, a delayed one does not;
            None subtracts what is emitted as it is.
    """
    decay, gain = leaky(charge)
    amount = threshold.detach() if isinstance(threshold, Tensor) else threshold
    amount = 1.0 if reset is None else amount
    taken = amount if isinstance(reset, str) else decay * amount
    received = potential if isinstance(gain, float) and gain == 1.0 else gain * potential
    return received - taken * accumulation.detach()


def settled(  # noqa: PLR0913
    potential: Tensor,
    accumulation: Tensor,
    emitted: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    reset: Reset | DelayedReset | None = None,
) -> Tensor:
    """The membrane that the neuron an `accumulating` one stands for hands to its next step.

    Args:
        potential: The accumulated current, [N, ...].
        accumulation: Its accumulation before this step, [N, ...].
        emitted: What it emitted in this step, [N, ...].
        charge: How the neuron is charged.
        threshold: Its threshold.
        reset: Its reset.

    Returns:
        [N, ...]: after the reset, or before it where the reset is delayed.
    """
    membrane = charged(potential, accumulation, charge=charge, threshold=threshold, reset=reset)
    if reset is None:
        return membrane - emitted
    return membrane if isinstance(reset, str) else reset(membrane, emitted, threshold)


def shifted(current: Tensor, offset: Tensor, count: Tensor, *, charge: Charge) -> Tensor:
    """Adds what earlier steps contributed to the accumulation of a constant.

    The accumulation of a constant is it times ``count[t] = decay * count[t-1] + 1``. A layer adds
    its bias once; this adds the rest.

    Args:
        current: What contains the constant once, [N, ...].
        offset: The constant; broadcasts to the current.
        count: The count before this step; broadcasts to the current from [N, 1, ...].
        charge: Its decay is the accumulation's.
    """
    rest = (leaky(charge).decay * count) * offset
    # a large new tensor takes longer than a sum: one is enough where the rest is as large
    alike = rest.shape == current.shape and rest.dtype == current.dtype
    return rest.add_(current) if alike else current + rest


def difference(accumulated: Tensor, before: Tensor, *, charge: Charge) -> Tensor:
    """What a step added to an accumulation, [N, ...]; its gradient is the accumulation's.

    Args:
        accumulated: The accumulation, [N, ...].
        before: The accumulation one step earlier, [N, ...].
        charge: Its decay is the accumulation's.
    """
    return accumulated - leaky(charge).decay * before.detach()

"""The neurons of the IR: one function each, whose body is the definition.

A neuron node in a step graph calls one of these functions for a single time step. Every pass,
kernel and exporter is tested against these bodies, and their order of operations is that of the
library the neuron came from, so that spikes agree bit for bit.

All tensors are [N, ...] (one time step); states have the shape of the current. What varies
between neurons is a value: a `Charge` says how the current moves the membrane, a `Reset` what a
spike does to it, a `Surrogate` how the gradient passes the threshold.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from snncompile.ir.accumulation import accumulate, accumulating
from snncompile.ir.certificates import Certificate
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
from snncompile.ir.counts import rounded
from snncompile.ir.filters import integrator, synaptic_current
from snncompile.ir.graded import multi_precision, stateless_multi_precision
from snncompile.ir.resets import DelayedReset, Hard, Keep, Reset, Subtract
from snncompile.ir.reversible import reversible_lif
from snncompile.ir.single_spike import single_spike
from snncompile.ir.surrogates import Surrogate, fire

__all__ = [
    "ELEMENTWISE", "NEURONS", "SPIKING", "Blend", "Charge", "Charged", "Decay", "DelayedReset",
    "Euler", "EulerBox", "Hard", "Integrate", "Keep", "Leak", "LeakRate", "Number", "Relax",
    "RelaxRate", "Reset", "Subtract", "accumulate", "accumulating", "adaptive_lif", "delayed_lif",
    "integer_lif", "integrator", "lif", "multi_precision", "rectified_lif", "reversible_lif",
    "single_spike", "stateless_multi_precision", "synaptic_current",
]  # fmt: skip


def lif(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    reset: Reset,
    surrogate: Surrogate,
    strict: bool = False,
    detach_membrane: bool = False,
    certificate: Certificate | None = None,
) -> tuple[Tensor, Tensor]:
    """Integrate and fire: charge, compare, reset, all within this step.

    Covers IF, LIF and parametric LIF; `detach_membrane` cuts the gradient through time, as the
    online rules OTTT (arXiv:2210.04195) and SLTT (arXiv:2302.14311) do.

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...].
        charge: How current and leak move the membrane.
        threshold: Firing threshold; a tensor must broadcast to the current.
        reset: What a spike does to the membrane.
        surrogate: The derivative that replaces the step's.
        strict: Fire above the threshold only; otherwise at it too.
        detach_membrane: Treat the incoming membrane as a constant in the backward pass.
        certificate: Its steps may run side by side; written then. No value depends on it.

    Returns:
        Spikes and the membrane after the reset, each [N, ...].
    """
    charged = charge(current, membrane.detach() if detach_membrane else membrane)
    spikes = fire(charged - threshold, surrogate, strict=strict)
    return spikes, reset(charged, spikes, threshold)


def rectified_lif(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    *,
    charge: Charge,
    slope: Number,
    threshold: Number,
    reset: Reset,
    surrogate: Surrogate,
    scale_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """KLIF: the charged membrane passes a learnable ReLU before it is compared.

    With `scale_reset` the reset acts on the membrane before that ReLU's slope (Jiang and Zhang,
    2023, arXiv:2302.09238).

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...].
        charge: How current and leak move the membrane.
        slope: The ReLU's slope k.
        threshold: Firing threshold.
        reset: What a spike does to the membrane.
        surrogate: The derivative that replaces the step's.
        scale_reset: Reset on membrane / slope with threshold / slope.

    Returns:
        Spikes and the membrane after the reset, each [N, ...].
    """
    charged = torch.relu(slope * charge(current, membrane))
    spikes = fire(charged - threshold, surrogate, strict=False)
    if scale_reset:
        return spikes, reset(charged / slope, spikes, threshold / slope)
    return spikes, reset(charged, spikes, threshold)


def integer_lif(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    reset: Reset,
    levels: float,
) -> tuple[Tensor, Tensor]:
    """I-LIF: emits the rounded multiple of the threshold that the membrane holds, 0 to levels.

    Luo et al., 2024, arXiv:2407.20708. The gradient is 1 where the multiple lies in [0, levels].

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...].
        charge: How current and leak move the membrane.
        threshold: The size of one level.
        reset: What the emitted count does to the membrane.
        levels: The largest count.

    Returns:
        Counts and the membrane after the reset, each [N, ...].
    """
    charged = charge(current, membrane)
    counts = rounded(charged / threshold, levels)
    return counts, reset(charged, counts, threshold)


def delayed_lif(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    reset: DelayedReset,
    surrogate: Surrogate,
    gain: Number = 1.0,
    reset_now: Literal["subtract", "zero", "none"] = "none",
) -> tuple[Tensor, Tensor]:
    """A neuron whose reset takes effect one step after its spike (snnTorch).

    The state is the membrane before the reset; whether it fired last step is read off it again,
    and that signal carries no gradient.

    Args:
        current: Input current, [N, ...].
        membrane: Membrane of the last step, before its reset, [N, ...].
        charge: How current and leak move the membrane.
        threshold: Firing threshold; it fires strictly above.
        reset: What last step's spike does.
        surrogate: The derivative that replaces the step's.
        gain: Amplitude of a spike.
        reset_now: What this step's spike does at once, beyond last step's, with gradient.

    Returns:
        Spikes times gain and the membrane, each [N, ...].
    """
    fired = fire(membrane - threshold, surrogate, strict=True).detach()
    kept = (1 - fired) * membrane if reset == "zero_state" else membrane
    charged = _reset_late(charge(current, kept), fired, threshold, reset)
    spikes = fire(charged - threshold, surrogate, strict=True) * gain
    if reset_now == "none":
        return spikes, charged
    again = spikes / gain - fired
    return spikes, charged - again * (threshold if reset_now == "subtract" else charged)


def _reset_late(charged: Tensor, fired: Tensor, threshold: Number, reset: DelayedReset) -> Tensor:
    if reset == "subtract":
        return charged - fired * threshold
    if reset == "zero":
        return charged * (1 - fired)
    return charged - fired * charged if reset == "zero_subtract" else charged


def adaptive_lif(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    adaptation: Tensor,
    *,
    charge: Charge,
    rate: Number,
    jump: Number,
    threshold: Number,
    reset: Reset,
    surrogate: Surrogate,
    detach: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """LSNN: the threshold is a state that relaxes to `threshold` and jumps with every spike.

    Bellec et al., 2018, arXiv:1803.09574, as Norse writes it; fires strictly above.

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...].
        adaptation: The moving threshold, [N, ...].
        charge: How current and leak move the membrane.
        rate: How fast the moving threshold relaxes, per step.
        jump: What one spike adds to it.
        threshold: Where it relaxes to.
        reset: What a spike does to the membrane.
        surrogate: The derivative that replaces the step's.
        detach: Stop the gradient from the jump to the spike.

    Returns:
        Spikes, membrane after the reset, moving threshold, each [N, ...].
    """
    charged = charge(current, membrane)
    relaxed = adaptation + rate * (threshold - adaptation)
    spikes = fire(charged - relaxed, surrogate, strict=True)
    emitted = spikes.detach() if detach else spikes
    return spikes, reset(charged, spikes, threshold), relaxed + emitted * jump


ELEMENTWISE: tuple[Callable[..., tuple[Tensor, ...]], ...] = (
    lif,
    rectified_lif,
    integer_lif,
    delayed_lif,
    adaptive_lif,
    integrator,
    synaptic_current,
    accumulate,
    accumulating,
    multi_precision,
    stateless_multi_precision,
    single_spike,
)
"""The neurons that act on every element of [N, ...] by itself."""

NEURONS = (*ELEMENTWISE, reversible_lif)
"""Every neuron of the IR."""

GRADED = (multi_precision, stateless_multi_precision)
"""Those whose spikes have a size, a multiple of `unit` if `levels` is given."""

SPIKING = (
    lif,
    rectified_lif,
    integer_lif,
    delayed_lif,
    adaptive_lif,
    accumulating,
    single_spike,
    *GRADED,
)
"""Those whose first output is spikes."""

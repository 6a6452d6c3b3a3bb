"""Neurons that never fire: leaky integrals of what they receive."""

from typing import Literal

from torch import Tensor

from snncompile.ir.charges import Charge, Number


def integrator(current: Tensor, membrane: Tensor, *, charge: Charge) -> tuple[Tensor, Tensor]:
    """A neuron that never fires: its output is its membrane.

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...].
        charge: How current and leak move the membrane.

    Returns:
        The charged membrane twice: as output and as state, each [N, ...].
    """
    charged = charge(current, membrane)
    return charged, charged


def synaptic_current(
    current: Tensor,
    state: Tensor,
    *,
    decay: Number,
    order: Literal["decay_then_add", "add_then_decay", "delay"],
) -> tuple[Tensor, Tensor]:
    """A synapse with an exponentially decaying current, in front of a neuron.

    "decay_then_add": state = decay * state + current is both output and next state.
    "add_then_decay": the output is state + current; the next state is that, plus -decay of it
    (here `decay` is the share that is lost, as in an Euler step).
    "delay": the output is the old state; the next is state plus -decay of it, plus current.

    Args:
        current: Input, [N, ...].
        state: Synaptic current after the last step, [N, ...].
        decay: The factor, or the share lost, see above.
        order: Which of the three.

    Returns:
        The current that reaches the membrane, and the next state, each [N, ...].
    """
    if order == "decay_then_add":
        decayed = decay * state + current
        return decayed, decayed
    if order == "add_then_decay":
        jumped = state + current
        return jumped, jumped + -decay * jumped
    return state, state + -decay * state + current

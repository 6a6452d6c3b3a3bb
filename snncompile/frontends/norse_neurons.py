"""One step of each of Norse's neurons, in its own order of operations.

| Norse | here |
| --- | --- |
| ``v``, ``i``, ``z``, ``b`` | states "membrane", "current", "spikes", "adaptation" |
| ``dt * tau_mem_inv``, ``dt * tau_syn_inv``, ``dt * tau_adapt_inv`` | rates of Euler steps |
| ``v_leak``, ``v_th``, ``v_reset`` | rest, threshold, value of the hard reset |

Everything fires strictly above its threshold. The recurrent neurons stop the gradient of the
reset; the others let it through. A recurrent neuron gets its input through ``input_weights``
before the step; its own spikes of the last step come back through ``recurrent_weights``.
"""

# pyright: basic
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from norse.torch.functional.iaf import IAFFeedForwardState, iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import LIState, li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import LIBoxState, li_box_feed_forward_step
from norse.torch.functional.lif import (
    LIFFeedForwardState,
    LIFState,
    lif_feed_forward_step,
    lif_step,
)
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, lif_box_feed_forward_step
from norse.torch.functional.lsnn import (
    LSNNFeedForwardState,
    LSNNState,
    lsnn_feed_forward_step,
    lsnn_step,
)
from torch import Tensor
from torch.nn import functional

from snncompile.frontends.lowering import Lowering
from snncompile.frontends.norse_parameters import Parameters
from snncompile.ir import neurons

States: TypeAlias = dict[str, Tensor]
"""The values of a neuron's states by Norse's names."""

Step: TypeAlias = Callable[[Parameters, Lowering, Tensor, States], tuple[Tensor, States]]
"""``step(parameters, lowering, current, states)``: the output, and the states after it."""


def _lif(p: Parameters, lowering: Lowering, current: Tensor, held: States) -> tuple[Tensor, States]:
    arriving, after = _add_then_decay(p, lowering, current, held["i"])
    spikes, membrane = _fire(p, lowering, (arriving, held["v"]), _euler(p), p.reset())
    return spikes, {"v": membrane, "i": after}


def _recurrent_lif(
    p: Parameters, lowering: Lowering, current: Tensor, held: States
) -> tuple[Tensor, States]:
    """Summed in Norse's order: (synaptic current + input) + feedback."""
    arriving, after = _add_then_decay(p, lowering, _feedback(p, held), held["i"] + current)
    reset = p.reset(detach=True)
    spikes, membrane = _fire(p, lowering, (arriving, held["v"]), _euler(p), reset)
    return spikes, {"z": spikes, "v": membrane, "i": after}


def _lif_box(
    p: Parameters, lowering: Lowering, current: Tensor, held: States
) -> tuple[Tensor, States]:
    charge = neurons.EulerBox(p.rate("tau_mem_inv"), p.number("v_leak"))
    spikes, membrane = _fire(p, lowering, (current, held["v"]), charge, p.reset())
    return spikes, {"v": membrane}


def _iaf(p: Parameters, lowering: Lowering, current: Tensor, held: States) -> tuple[Tensor, States]:
    drive = (current, held["v"])
    spikes, membrane = _fire(p, lowering, drive, neurons.Integrate(), p.reset())
    return spikes, {"v": membrane}


def _li(p: Parameters, lowering: Lowering, current: Tensor, held: States) -> tuple[Tensor, States]:
    arriving, after = _add_then_decay(p, lowering, current, held["i"])
    output, membrane = lowering.neuron(neurons.integrator, arriving, held["v"], charge=_euler(p))
    return output, {"v": membrane, "i": after}


def _li_box(
    p: Parameters, lowering: Lowering, current: Tensor, held: States
) -> tuple[Tensor, States]:
    output, membrane = lowering.neuron(neurons.integrator, current, held["v"], charge=_euler(p))
    return output, {"v": membrane}


def _lsnn(
    p: Parameters, lowering: Lowering, current: Tensor, held: States
) -> tuple[Tensor, States]:
    arriving, after = _delayed(p, lowering, current, held["i"])
    spikes, membrane, adaptation = _adapt(p, lowering, arriving, held, detach=False)
    return spikes, {"v": membrane, "i": after, "b": adaptation}


def _recurrent_lsnn(
    p: Parameters, lowering: Lowering, current: Tensor, held: States
) -> tuple[Tensor, States]:
    """The feedback joins the next current last, as in Norse."""
    arriving, after = _delayed(p, lowering, current, held["i"])
    spikes, membrane, adaptation = _adapt(p, lowering, arriving, held, detach=True)
    following = after + _feedback(p, held)
    return spikes, {"z": spikes, "v": membrane, "i": following, "b": adaptation}


def _euler(p: Parameters) -> neurons.Euler:
    return neurons.Euler(p.rate("tau_mem_inv"), p.number("v_leak"))


def _feedback(p: Parameters, held: States) -> Tensor:
    return functional.linear(held["z"], p.module.recurrent_weights)


def _add_then_decay(
    p: Parameters, lowering: Lowering, current: Tensor, held: Tensor
) -> tuple[Tensor, ...]:
    decay = p.rate("tau_syn_inv")
    synapse = neurons.synaptic_current
    return lowering.neuron(synapse, current, held, decay=decay, order="add_then_decay")


def _delayed(
    p: Parameters, lowering: Lowering, current: Tensor, held: Tensor
) -> tuple[Tensor, ...]:
    decay = p.rate("tau_syn_inv")
    return lowering.neuron(neurons.synaptic_current, current, held, decay=decay, order="delay")


def _fire(
    p: Parameters,
    lowering: Lowering,
    drive: tuple[Tensor, Tensor],
    charge: neurons.Charge,
    reset: neurons.Reset,
) -> tuple[Tensor, ...]:
    return lowering.neuron(
        neurons.lif,
        *drive,
        charge=charge,
        threshold=p.number("v_th"),
        reset=reset,
        surrogate=p.surrogate(),
        strict=True,
    )


def _adapt(
    p: Parameters, lowering: Lowering, arriving: Tensor, held: States, *, detach: bool
) -> tuple[Tensor, ...]:
    return lowering.neuron(
        neurons.adaptive_lif,
        arriving,
        held["v"],
        held["b"],
        charge=_euler(p),
        rate=p.rate("tau_adapt_inv"),
        jump=p.number("beta"),
        threshold=p.number("v_th"),
        reset=p.reset(detach=detach),
        surrogate=p.surrogate(),
        detach=detach,
    )


class Neuron(NamedTuple):
    """One of Norse's activations.

    Attributes:
        step: One time step of it.
        states: Norse's NamedTuple of its states.
        initial: For every state that does not start at 0, the parameter it starts at.
    """

    step: Step
    states: Any
    initial: dict[str, str]


_LEAK = {"v": "v_leak"}
_ADAPTIVE = {"v": "v_leak", "b": "v_th"}

NEURONS: dict[Callable[..., Any], Neuron] = {
    lif_feed_forward_step: Neuron(_lif, LIFFeedForwardState, _LEAK),
    lif_step: Neuron(_recurrent_lif, LIFState, _LEAK),
    lif_box_feed_forward_step: Neuron(_lif_box, LIFBoxFeedForwardState, _LEAK),
    iaf_feed_forward_step: Neuron(_iaf, IAFFeedForwardState, {"v": "v_reset"}),
    li_feed_forward_step: Neuron(_li, LIState, _LEAK),
    li_box_feed_forward_step: Neuron(_li_box, LIBoxState, _LEAK),
    lsnn_feed_forward_step: Neuron(_lsnn, LSNNFeedForwardState, _ADAPTIVE),
    lsnn_step: Neuron(_recurrent_lsnn, LSNNState, _ADAPTIVE),
}
"""Every covered activation: what a cell or a sequence module of Norse calls in each step."""

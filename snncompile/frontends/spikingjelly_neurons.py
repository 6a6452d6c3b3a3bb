# pyright: basic
"""SpikingJelly's neurons: what each does in one time step, as a neuron of the IR.

The library's words translate so: ``v`` is the membrane, ``c`` the synaptic current, ``tau`` and
``decay_input`` choose the charge, ``v_threshold`` is the threshold, ``v_reset=None`` means reset by
subtraction and a number a hard reset to it, ``detach_reset`` stops the gradient of the reset.
Every neuron fires at the threshold (``>=``) and resets within the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from spikingjelly.activation_based import neuron as library
from torch import Tensor, nn

from snncompile.frontends.lowering import Lowering
from snncompile.frontends.spikingjelly_surrogates import problem as surrogate_problem
from snncompile.frontends.spikingjelly_surrogates import surrogate_of
from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate


class Memory(NamedTuple):
    """A hidden state that the library keeps in ``module._memories``.

    Attributes:
        name: Its key there.
        label: What the program calls it.
        unset: What fills it where the library's reset value is not a number.
    """

    name: str
    label: str
    unset: float = 0.0


LibraryModule: TypeAlias = Any
"""A module of SpikingJelly, which has no types."""

Step: TypeAlias = Callable[..., tuple[Any, ...]]
"""``step(module, lowering, current, *states)``: the output, then the next states, all [N, ...]."""


class Neuron(NamedTuple):
    """One time step of a neuron and the hidden states it hands on, in the order of `step`."""

    step: Step
    memories: tuple[Memory, ...]


MEMBRANE = Memory("v", "membrane")


def _settings(module: LibraryModule) -> dict[str, Any]:
    """Threshold, reset and surrogate, as every neuron of the IR takes them."""
    return {
        "threshold": module.v_threshold,
        "reset": _reset(module),
        "surrogate": surrogate_of(module.surrogate_function),
    }


def _reset(module: LibraryModule) -> neurons.Reset:
    if module.v_reset is None:
        return neurons.Subtract(module.detach_reset)
    return neurons.Hard(module.v_reset, module.detach_reset)


def _rest(module: LibraryModule) -> float:
    return 0.0 if module.v_reset is None else float(module.v_reset)


def _leaky_charge(module: LibraryModule) -> neurons.Charge:
    kind = neurons.Relax if module.decay_input else neurons.Leak
    return kind(module.tau, _rest(module))


def _integrate_and_fire(
    module: nn.Module, lowering: Lowering, current: Tensor, membrane: Tensor
) -> tuple[Tensor, ...]:
    charge = neurons.Integrate()
    return lowering.neuron(neurons.lif, current, membrane, charge=charge, **_settings(module))


def _leaky(
    module: nn.Module, lowering: Lowering, current: Tensor, membrane: Tensor
) -> tuple[Tensor, ...]:
    charge = _leaky_charge(module)
    return lowering.neuron(neurons.lif, current, membrane, charge=charge, **_settings(module))


def _parametric_leaky(
    module: LibraryModule,
    lowering: Lowering,
    current: Tensor,
    membrane: Tensor,
) -> tuple[Tensor, ...]:
    kind = neurons.RelaxRate if module.decay_input else neurons.LeakRate
    charge = kind(torch.sigmoid(module.w), _rest(module))
    return lowering.neuron(neurons.lif, current, membrane, charge=charge, **_settings(module))


def _rectified_leaky(
    module: LibraryModule,
    lowering: Lowering,
    current: Tensor,
    membrane: Tensor,
) -> tuple[Tensor, ...]:
    return lowering.neuron(
        neurons.rectified_lif,
        current,
        membrane,
        charge=_leaky_charge(module),
        slope=module.k,
        scale_reset=module.scale_reset,
        **_settings(module),
    )


def _current_based(
    module: LibraryModule,
    lowering: Lowering,
    current: Tensor,
    membrane: Tensor,
    synapse: Tensor,
) -> tuple[Tensor, ...]:
    filtered, synapse = lowering.neuron(
        neurons.synaptic_current,
        current,
        synapse,
        decay=module.c_decay,
        order="decay_then_add",
    )
    charge = neurons.Decay(module.v_decay)
    spikes, membrane = lowering.neuron(
        neurons.lif, filtered, membrane, charge=charge, **_settings(module)
    )
    return spikes, membrane, synapse


def _integer(
    module: LibraryModule,
    lowering: Lowering,
    current: Tensor,
    membrane: Tensor,
) -> tuple[Tensor, ...]:
    """The library writes the leak in two ways that round differently, one for each step mode."""
    multi = module.step_mode == "m"
    charge = neurons.Decay(1.0 - 1.0 / module.tau) if multi else neurons.Leak(module.tau)
    return lowering.neuron(
        neurons.integer_lif,
        current,
        membrane,
        charge=charge,
        threshold=module.v_threshold,
        reset=neurons.Subtract(module.detach_reset),
        levels=float(module.surrogate_function.max_spike_count),
    )


def _online(
    module: nn.Module, lowering: Lowering, current: Tensor, membrane: Tensor
) -> tuple[Tensor, ...]:
    """In training the membrane carries no gradient from step to step; in eval spikes have none."""
    settings = _settings(module)
    if not module.training:
        settings["surrogate"] = Surrogate("none")
    return lowering.neuron(
        neurons.lif,
        current,
        membrane,
        charge=_leaky_charge(module),
        detach_membrane=module.training,
        **settings,
    )


def _online_traced(
    module: LibraryModule,
    lowering: Lowering,
    current: Tensor,
    membrane: Tensor,
    trace: Tensor,
) -> tuple[Any, ...]:
    """Also returns the trace of its spikes, from which OTTT's synapses build their gradient."""
    spikes, membrane = _online(module, lowering, current, membrane)
    with torch.no_grad():
        trace = trace * (1.0 - 1.0 / module.tau) + spikes
    return [spikes, trace], membrane, trace


_LEAKY = Neuron(_leaky, (MEMBRANE,))
_INTEGRATE_AND_FIRE = Neuron(_integrate_and_fire, (MEMBRANE,))
_ONLINE = Neuron(_online, (MEMBRANE,))

NEURONS: dict[type[nn.Module], Neuron] = {
    library.IFNode: _INTEGRATE_AND_FIRE,
    library.LIFNode: _LEAKY,
    library.ParametricLIFNode: Neuron(_parametric_leaky, (MEMBRANE,)),
    library.KLIFNode: Neuron(_rectified_leaky, (MEMBRANE,)),
    library.CUBALIFNode: Neuron(_current_based, (MEMBRANE, Memory("c", "current"))),
    library.ILIFNode: Neuron(_integer, (MEMBRANE,)),
    library.OTTTLIFNode: Neuron(_online_traced, (MEMBRANE, Memory("trace", "trace"))),
    library.SLTTLIFNode: _ONLINE,
    library.SimpleIFNode: _INTEGRATE_AND_FIRE,
    library.SimpleLIFNode: _LEAKY,
}
"""The covered neurons, by class."""

_DYNAMICS = (
    "forward",
    "single_step_forward",
    "multi_step_forward",
    "functional_forward",
    "single_step_functional_forward",
    "multi_step_functional_forward",
    "materialize_states",
    "neuronal_charge",
    "neuronal_fire",
    "neuronal_reset",
    "track_trace",
    "reset",
)
"""What a subclass may not override and still be the neuron it derives from."""


def kind_of(module: nn.Module) -> type[nn.Module] | None:
    """The covered class whose dynamics a module has, its own or one it inherits unchanged."""
    for kind in type(module).__mro__:
        if kind in NEURONS:
            return kind
        if any(name in vars(kind) for name in _DYNAMICS):
            return None
    return None


def neuron_of(module: nn.Module) -> Neuron | None:
    """What a module does in one step, or None if it is not a covered neuron."""
    kind = kind_of(module)
    if kind is None:
        return None
    if kind is library.OTTTLIFNode and not module.training:
        return _ONLINE
    return NEURONS[kind]


def problem(module: LibraryModule) -> str | None:
    """Why a neuron of a covered class cannot be lowered as it is set up; None if it can."""
    kind = kind_of(module)
    if getattr(module, "_neuron_precision", None) is not None:
        return "it has a neuron precision of its own; the IR computes in its input's"
    if kind in (library.OTTTLIFNode, library.SLTTLIFNode) and module.step_mode != "s":
        return "its online learning rule needs single steps; set step_mode='s'"
    if kind is library.SimpleLIFNode and module.v_reset is None:
        return "its leak pulls towards v_reset, which is None; give it a number, or use LIFNode"
    if kind is library.SimpleLIFNode and module.v_reset and not module.decay_input:
        return (
            "with decay_input=False it rounds its first step as Python does and the others as "
            "torch does, unless v_reset is 0; use LIFNode, which has the same equations"
        )
    if kind is library.ILIFNode:
        return _counting_problem(module.surrogate_function)
    return surrogate_problem(module.surrogate_function)


def _counting_problem(function: LibraryModule) -> str | None:
    if not function.spiking:
        return "its surrogate has spiking=False, so it does not spike; set it to True"
    window = (function.grad_min, function.grad_max)
    if window == (0, function.max_spike_count):
        return None
    return (
        f"its gradient window is {window}; only the default, "
        f"(0, {function.max_spike_count}), is covered: leave out grad_window"
    )

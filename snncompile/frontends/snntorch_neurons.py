"""One step of each of snnTorch's neurons, in its own order of operations.

| snnTorch | here |
| --- | --- |
| ``beta``, ``alpha``, clamped to [0, 1] in every step | decay of the membrane, of the current |
| ``mem``, ``syn``, ``spk`` | states "membrane", "current", "spikes" |
| ``reset_mechanism`` | reset; "zero" is "zero_state" for Leaky, "zero_subtract" elsewhere |
| ``reset_delay=False`` | `reset_now` |
| ``graded_spikes_factor`` | gain |

Spikes are float32 whatever the membrane's dtype, as in snnTorch. Its reset multiplies them in
float32 too, which in a float64 model rounds a threshold that float32 cannot hold; here the reset
uses the membrane's dtype. RSynaptic of snnTorch 1.0 computes the reset of ``reset_delay=False``
and drops it, so it is not there either.
"""

# pyright: basic
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from snntorch import LIF, Lapicque, Leaky, RLeaky, RSynaptic, StateLeaky, Synaptic
from torch import Tensor, nn

from snncompile.errors import CaptureError
from snncompile.frontends.lowering import Lowering
from snncompile.frontends.snntorch_surrogates import surrogate_of
from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate

LibraryModule: TypeAlias = Any
"""A neuron of snnTorch, which has no types."""

States: TypeAlias = dict[str, Tensor]
"""The values of a neuron's states by snnTorch's names: "mem", "syn", "spk"."""

Step: TypeAlias = Callable[[LibraryModule, Lowering, Tensor, States], States]
"""``step(module, lowering, current, states)``: the spikes, as "spk", and the states after it."""

_RESETS = {"_base_sub": "subtract", "_base_zero": "zero_subtract", "_base_int": "none"}


def _leaky(module: LibraryModule, lowering: Lowering, current: Tensor, held: States) -> States:
    return _fire(module, lowering, current, held["mem"], neurons.Decay(_decay(module.beta)))


def _lapicque(module: LibraryModule, lowering: Lowering, current: Tensor, held: States) -> States:
    constant = module.R * module.C
    driven = current * module.R * (1 / constant) * module.time_step
    charge = neurons.Decay(1 - module.time_step / constant)
    return _fire(module, lowering, driven, held["mem"], charge)


def _synaptic(module: LibraryModule, lowering: Lowering, current: Tensor, held: States) -> States:
    arriving, after = lowering.neuron(
        neurons.synaptic_current,
        current,
        held["syn"],
        decay=_decay(module.alpha),
        order="decay_then_add",
    )
    charge = neurons.Decay(_decay(module.beta))
    return {"syn": after} | _fire(module, lowering, arriving, held["mem"], charge)


def _recurrent_leaky(
    module: LibraryModule, lowering: Lowering, current: Tensor, held: States
) -> States:
    """Summed before the neuron, in snnTorch's order: (leak + current) + feedback."""
    charged = _decay(module.beta) * held["mem"] + current + module.recurrent(held["spk"])
    return _fire(module, lowering, charged, held["mem"], neurons.Charged())


def _recurrent_synaptic(
    module: LibraryModule, lowering: Lowering, current: Tensor, held: States
) -> States:
    arriving = _decay(module.alpha) * held["syn"] + current + module.recurrent(held["spk"])
    charge = neurons.Decay(_decay(module.beta))
    return {"syn": arriving} | _fire(module, lowering, arriving, held["mem"], charge)


def _decay(parameter: Tensor) -> Tensor:
    return parameter.clamp(0, 1)


def _fire(
    module: LibraryModule,
    lowering: Lowering,
    current: Tensor,
    membrane: Tensor,
    charge: neurons.Charge,
) -> States:
    reset = _RESETS[module.state_function.__name__]
    at_once = isinstance(module, (Leaky, RLeaky, Synaptic)) and not module.reset_delay
    surrogate = _surrogate(module)
    spikes, after = lowering.neuron(
        neurons.delayed_lif,
        current,
        membrane,
        charge=charge,
        threshold=module.threshold,
        reset="zero_state" if isinstance(module, Leaky) and reset == "zero_subtract" else reset,
        surrogate=surrogate,
        gain=module.graded_spikes_factor,
        reset_now=module.reset_mechanism if at_once else "none",
    )
    return {"spk": spikes.to(emitted_dtype(module, spikes)), "mem": after}


def _surrogate(module: LibraryModule) -> Surrogate:
    found = surrogate_of(module.spike_grad)
    if found is None:
        raise CaptureError(f"{type(module).__name__} fires with an unknown spike_grad")
    return found


def emitted_dtype(module: LibraryModule, like: Tensor) -> torch.dtype:
    """The dtype of a neuron's spikes: float32, unless a graded vector promotes it.

    A spike function of the user's own decides for itself; `like` then has the dtype.
    """
    gain = module.graded_spikes_factor
    if _surrogate(module).function is not None:
        return like.dtype
    return torch.promote_types(torch.float32, gain.dtype) if gain.dim() else torch.float32


def state_leaky(module: LibraryModule, lowering: Lowering, currents: Tensor) -> Any:  # noqa: ANN401
    """A causal convolution with exp(-k / tau) is a leak by exp(-1 / tau): equal up to rounding."""
    charge = neurons.Decay(torch.exp(-1 / module.tau))

    def integrate(current: Tensor) -> Tensor:
        before = lowering.state(module, "membrane", like=current, carried=False)
        membrane, after = lowering.neuron(neurons.integrator, current, before, charge=charge)
        lowering.finish(before, after)
        return membrane

    def fire(current: Tensor) -> tuple[Tensor, Tensor]:
        before = lowering.state(module, "membrane", like=current, carried=False)
        spikes, after = lowering.neuron(
            neurons.lif,
            current,
            before,
            charge=charge,
            threshold=module.threshold,
            reset=neurons.Keep(),
            surrogate=_surrogate(module),
            strict=True,
        )
        lowering.finish(before, after)
        gain = module.graded_spikes_factor
        return spikes.to(emitted_dtype(module, spikes)) * gain * gain, after

    return lowering.over_time(fire if module.output else integrate, currents)


_STEPS: dict[type[LIF], Step] = {
    Leaky: _leaky,
    Lapicque: _lapicque,
    Synaptic: _synaptic,
    RLeaky: _recurrent_leaky,
    RSynaptic: _recurrent_synaptic,
}
STATES: dict[type[LIF], tuple[str, ...]] = {
    Leaky: ("mem",),
    Lapicque: ("mem",),
    Synaptic: ("syn", "mem"),
    RLeaky: ("spk", "mem"),
    RSynaptic: ("spk", "syn", "mem"),
    StateLeaky: (),
}
"""The states of every covered class, in the order its forward takes and returns them."""
KEYS = {"mem": "membrane", "syn": "current", "spk": "spikes"}


def kind_of(module: nn.Module) -> type[LIF] | None:
    """The covered class that a module's class is, or that a user's class derives from."""
    for base in type(module).__mro__:
        if base in STATES:
            return base
        if base.__module__.startswith("snntorch."):
            return None
    return None


def states_of(module: nn.Module) -> tuple[str, ...]:
    """The names of a covered module's hidden states."""
    kind = kind_of(module)
    return STATES[kind] if kind else ()


def step_of(module: nn.Module) -> Step:
    """One time step of a covered module that has hidden states."""
    return next(step for kind, step in _STEPS.items() if isinstance(module, kind))

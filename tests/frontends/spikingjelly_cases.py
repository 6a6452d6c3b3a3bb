# pyright: basic
"""SpikingJelly's neurons in every setting that tests run them in, and how a test runs one."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from snncompile.frontends.spikingjelly import FRONTEND
from tests.frontends.eager import EagerLowering

STEPS = 14

LibraryModule: TypeAlias = Any
"""A module of SpikingJelly, which has no types."""


class Case(NamedTuple):
    """A neuron in one setting; `resets` and `modes` are those that it has."""

    make: Callable[..., Any]
    scale: float = 1.0
    resets: tuple[float | None, ...] = (None, 0.0, -0.25)
    modes: tuple[str, ...] = ("s", "m")
    training: bool = True


def _set(module: LibraryModule, **attributes: object) -> LibraryModule:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def _with_slope(module: LibraryModule, slope: float) -> LibraryModule:
    with torch.no_grad():
        module.k.fill_(slope)
    return module


CASES = {
    "IF": Case(neuron.IFNode),
    "LIF": Case(lambda **o: neuron.LIFNode(tau=1.7, **o), 2.0),
    "LIF without decay_input": Case(lambda **o: neuron.LIFNode(2.3, False, **o)),
    "PLIF": Case(lambda **o: neuron.ParametricLIFNode(1.7, **o), 2.0),
    "PLIF without decay_input": Case(lambda **o: neuron.ParametricLIFNode(2.3, False, **o)),
    "KLIF": Case(lambda **o: _with_slope(neuron.KLIFNode(tau=1.7, **o), 1.3), 2.0),
    "KLIF without decay_input": Case(
        lambda **o: _with_slope(neuron.KLIFNode(decay_input=False, **o), 0.7)
    ),
    "KLIF with scale_reset": Case(
        lambda **o: _with_slope(neuron.KLIFNode(scale_reset=True, tau=1.7, **o), 1.3), 2.0
    ),
    "CUBALIF": Case(lambda v_reset, **o: _set(neuron.CUBALIFNode(v_reset=v_reset), **o)),
    "ILIF": Case(
        lambda v_reset, detach_reset, surrogate_function=None: neuron.ILIFNode(
            1.3, v_threshold=0.7, detach_reset=detach_reset
        ),
        resets=(None,),
    ),
    "OTTT": Case(lambda **o: neuron.OTTTLIFNode(tau=1.7, **o), modes=("s",)),
    "OTTT in eval": Case(neuron.OTTTLIFNode, modes=("s",), training=False),
    "SLTT": Case(lambda **o: neuron.SLTTLIFNode(tau=1.7, **o), 2.0, modes=("s",)),
    "SLTT in eval": Case(neuron.SLTTLIFNode, 2.0, modes=("s",), training=False),
    "SimpleIF": Case(neuron.SimpleIFNode),
    "SimpleLIF": Case(lambda **o: neuron.SimpleLIFNode(1.7, True, **o), 2.0, (0.0, -0.25)),
    "SimpleLIF without decay_input": Case(
        lambda **o: neuron.SimpleLIFNode(1.7, False, **o), resets=(0.0,)
    ),
}
SETTINGS = [
    pytest.param(name, mode, reset, id=f"{name}, {mode}, reset {reset}")
    for name, case in CASES.items()
    for mode in case.modes
    for reset in case.resets
]


def make(
    name: str, mode: str, reset: float | None, detach: bool = False, **more: object
) -> LibraryModule:
    case = CASES[name]
    module = case.make(v_reset=reset, detach_reset=detach, **more)
    return _set(module, step_mode=mode).train(case.training)


def currents(name: str, dtype: torch.dtype = torch.float64, steps: int = STEPS) -> Tensor:
    torch.manual_seed(3)
    return ((torch.randn(steps, 3, 5) + 0.6) * CASES[name].scale).to(dtype)


class Run(NamedTuple):
    """What a neuron did: its outputs over time, OTTT's traces, and its membranes."""

    spikes: Tensor
    traces: Tensor | None
    membranes: Tensor

    def loss(self) -> Tensor:
        torch.manual_seed(5)
        return (self.spikes * torch.randn_like(self.spikes)).sum() + self.membranes[-1].sum()


def run(call: Callable[[Tensor], Any], module: LibraryModule, sequence: Tensor) -> Run:
    """Step by step with the membrane after each step, or all at once with the last one."""
    if module.step_mode == "m":
        return Run(call(sequence), None, module.v.unsqueeze(0))
    outputs, membranes = [], []
    for current in sequence:
        outputs.append(call(current))
        membranes.append(module.v)
    if not isinstance(outputs[0], list):
        return Run(torch.stack(outputs), None, torch.stack(membranes))
    spikes, traces = zip(*outputs, strict=True)
    return Run(torch.stack(spikes), torch.stack(traces), torch.stack(membranes))


def lower(module: LibraryModule, sequence: Tensor, lowering: EagerLowering) -> Run:
    """One call of a model that holds the neuron."""
    FRONTEND.begin(module)
    result = run(lambda x: FRONTEND.lower(module, lowering, x), module, sequence)
    FRONTEND.end(module, lowering)
    return result


def assert_same(lowered: Run, library: Run) -> None:
    rate = (library.spikes > 0).double().mean().item()
    assert 0.05 < rate < 0.95
    assert torch.equal(lowered.spikes, library.spikes)
    assert torch.equal(lowered.membranes, library.membranes)
    assert lowered.spikes.dtype == library.spikes.dtype
    assert (lowered.traces is None) == (library.traces is None)
    if lowered.traces is not None and library.traces is not None:
        assert torch.equal(lowered.traces, library.traces)

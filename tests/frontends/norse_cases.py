# pyright: basic
"""Norse's modules with every kind of parameters, and how the tests drive them."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import norse.torch
import torch
from torch import Tensor, nn

from snncompile.frontends.norse import FRONTEND
from tests.frontends.eager import EagerLowering

TIME, BATCH, WIDTH, HIDDEN = 14, 5, 6, 7

snn: Any = norse.torch
"""Without types: Norse declares a module where it takes a NamedTuple, a float for a tensor."""
Neuron: TypeAlias = Any
"""A module of Norse."""
Make: TypeAlias = Callable[[], Neuron]


def values(*names: str, learned: bool = False) -> dict[str, Tensor]:
    """Parameters that are not the defaults and not exact in binary."""
    numbers = {
        "tau_syn_inv": 230.0,
        "tau_mem_inv": 130.0,
        "tau_adapt_inv": 20.0,
        "v_leak": 0.1,
        "v_th": 0.7,
        "v_reset": -0.3,
        "beta": 0.4,
    }
    tensors = {name: torch.tensor(numbers[name]) for name in names}
    return {n: nn.Parameter(value) for n, value in tensors.items()} if learned else tensors


MEMBRANE_NAMES = ("tau_mem_inv", "v_leak")
FIRING = (*MEMBRANE_NAMES, "v_th", "v_reset")
INTEGRATING = (*MEMBRANE_NAMES, "tau_syn_inv")
SYNAPTIC = (*FIRING, "tau_syn_inv")
ADAPTIVE = (*SYNAPTIC, "tau_adapt_inv", "beta")


CLASSES: dict[str, tuple[Callable[..., Neuron], Callable[..., Any], tuple[str, ...]]] = {
    "LIFCell": (snn.LIFCell, snn.LIFParameters, SYNAPTIC),
    "LIF": (snn.LIF, snn.LIFParameters, SYNAPTIC),
    "LIFRecurrentCell": (
        partial(snn.LIFRecurrentCell, WIDTH, HIDDEN),
        snn.LIFParameters,
        SYNAPTIC,
    ),
    "LIFRecurrent": (
        partial(snn.LIFRecurrent, WIDTH, HIDDEN, autapses=True),
        snn.LIFParameters,
        SYNAPTIC,
    ),
    "LIFBoxCell": (snn.LIFBoxCell, snn.LIFBoxParameters, FIRING),
    "LIFBoxCell subtract": (
        snn.LIFBoxCell,
        partial(snn.LIFBoxParameters, reset_method=snn.reset_subtract),
        FIRING,
    ),
    "IAFCell": (snn.IAFCell, snn.IAFParameters, ("v_th", "v_reset")),
    "IAF": (snn.IAF, snn.IAFParameters, ("v_th", "v_reset")),
    "LICell": (snn.LICell, snn.LIParameters, INTEGRATING),
    "LI": (snn.LI, snn.LIParameters, INTEGRATING),
    "LIBoxCell": (snn.LIBoxCell, snn.LIBoxParameters, MEMBRANE_NAMES),
    "LSNNCell": (snn.LSNNCell, snn.LSNNParameters, ADAPTIVE),
    "LSNN": (snn.LSNN, snn.LSNNParameters, ADAPTIVE),
    "LSNNRecurrentCell": (
        partial(snn.LSNNRecurrentCell, WIDTH, HIDDEN),
        snn.LSNNParameters,
        ADAPTIVE,
    ),
    "LSNNRecurrent": (partial(snn.LSNNRecurrent, WIDTH, HIDDEN), snn.LSNNParameters, ADAPTIVE),
}
"""Every class: its constructor, that of its parameters, and the names of these."""


def parametrised(name: str, *, learned: bool) -> Neuron:
    """A neuron whose parameters are not the defaults: numbers, or learned."""
    make, parameters, names = CLASSES[name]
    return make(p=parameters(**values(*names, learned=learned)))


CASES: dict[str, Make] = {name: make for name, (make, _, _) in CLASSES.items()}
CASES |= {f"{name} numbers": partial(parametrised, name, learned=False) for name in CLASSES}
CASES |= {f"{name} learned": partial(parametrised, name, learned=True) for name in CLASSES}
SEQUENCES = {name: make for name, make in CASES.items() if "Cell" not in name}
SCALES = {"LIF": 6.0, "LSN": 9.0, "IAF": 1.2}
"""How strong currents must be for neurons of each kind to fire at a good rate."""


def currents(neuron: Neuron, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    found = torch.rand(TIME, BATCH, WIDTH, generator=generator, dtype=torch.float64)
    name = type(neuron).__name__
    stronger = 2.5 if "Box" in name or "Recurrent" in name else 1.0
    return ((found - 0.3) * SCALES.get(name[:3], 6.0) * stronger).to(dtype)


def made(make: Make, dtype: torch.dtype = torch.float32) -> Neuron:
    """A neuron with reproducible weights; learned parameters have its dtype, too."""
    torch.manual_seed(0)
    neuron = make().to(dtype)
    for value in neuron.p:
        if isinstance(value, nn.Parameter):
            value.data = value.data.to(dtype)
    return neuron


def lowered(neuron: Neuron, lowering: EagerLowering | None = None) -> Callable[..., Any]:
    assert FRONTEND.covers(neuron)
    FRONTEND.begin(neuron)
    return partial(FRONTEND.lower, neuron, lowering or EagerLowering())


def is_sequence(neuron: Neuron) -> bool:
    return hasattr(neuron, "record_states")


def run(call: Callable[..., Any], neuron: Neuron, inputs: Tensor) -> tuple[Tensor, list[Any]]:
    """Outputs [T, N, ...], and the states after every step that the module returns."""
    if is_sequence(neuron):
        output, state = call(inputs)
        return output, [state]
    outputs: list[Tensor] = []
    states: list[Any] = []
    for current in inputs:
        output, state = call(current, states[-1] if states else None)
        outputs.append(output)
        states.append(state)
    return torch.stack(outputs), states


def assert_same(found: tuple[Tensor, list[Any]], expected: tuple[Tensor, list[Any]]) -> None:
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert type(ours) is type(theirs)
        for value, other in zip(ours, theirs, strict=True):
            assert value.dtype == other.dtype
            assert torch.equal(value, other)


def assert_fires(neuron: Neuron, output: Tensor) -> None:
    if not type(neuron).__name__.startswith(("LIC", "LIB")) and type(neuron) is not snn.LI:
        assert 0.05 < output.detach().mean() < 0.95


def gradients(call: Callable[..., Any], neuron: Neuron, dtype: torch.dtype) -> dict[str, Tensor]:
    inputs = currents(neuron, dtype).requires_grad_()
    learned = {
        n: v for n, v in zip(neuron.p._fields, neuron.p, strict=True) if isinstance(v, nn.Parameter)
    }
    watched = {"current": inputs} | learned | dict(neuron.named_parameters())
    for value in watched.values():
        value.grad = None
    outputs, states = run(call, neuron, inputs)
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=dtype)
    for value in (outputs, *states[-1]):
        loss = loss + (value * torch.rand(value.shape, generator=generator, dtype=dtype)).sum()
    torch.autograd.backward(loss)
    return {name: value.grad for name, value in watched.items() if value.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name

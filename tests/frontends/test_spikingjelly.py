# pyright: basic
"""Every covered neuron of SpikingJelly, lowered, against the library's own module."""

import copy
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snncompile.frontends.spikingjelly_neurons import NEURONS
from tests.frontends.eager import EagerLowering
from tests.frontends.spikingjelly_cases import (
    CASES,
    SETTINGS,
    Run,
    assert_same,
    currents,
    lower,
    make,
    run,
)
from tests.reference import neurons_spikingjelly as reference

GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Relative: sums over time are taken in another order, and derivatives are spelled differently."""
ROUNDING = 1e-12
"""Absolute: the independent reference in float64 sums in another order."""


def gradients(result: Run, module: nn.Module, sequence: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result.loss(), (sequence, *module.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("detach", [False, True], ids=["reset attached", "reset detached"])
@pytest.mark.parametrize(("name", "mode", "reset"), SETTINGS)
def test_spikes_and_membranes_are_bit_equal_and_gradients_agree(
    name: str, mode: str, reset: float | None, detach: bool, dtype: torch.dtype
) -> None:
    module = make(name, mode, reset, detach).to(dtype)
    twin = copy.deepcopy(module)
    sequence = currents(name, dtype).requires_grad_()

    library = run(module, module, sequence)
    lowered = lower(twin, sequence, EagerLowering())

    assert_same(lowered, library)
    expected = gradients(library, module, sequence)
    for found, wanted in zip(gradients(lowered, twin, sequence), expected, strict=True):
        error = (found - wanted).abs().max() / wanted.abs().max()
        assert wanted.abs().max() > 0
        assert error <= GRADIENT_TOLERANCE[dtype]


WEIGHT: float = neuron.ParametricLIFNode(1.7).w.double().item()
SLOPE = torch.tensor(1.3).double().item()
Loop = Callable[[reference.Rows, float | None], tuple[reference.Rows, reference.Rows]]
LOOPS: dict[str, Loop] = {
    "IF": lambda x, r: reference.integrate_and_fire(x, threshold=1.0, reset=r),
    "LIF": lambda x, r: reference.leaky(x, tau=1.7, decay_input=True, threshold=1.0, reset=r),
    "LIF without decay_input": lambda x, r: reference.leaky(
        x, tau=2.3, decay_input=False, threshold=1.0, reset=r
    ),
    "PLIF": lambda x, r: reference.parametric_leaky(
        x, weight=WEIGHT, decay_input=True, threshold=1.0, reset=r
    ),
    "KLIF": lambda x, r: reference.rectified_leaky(
        x, tau=1.7, slope=SLOPE, threshold=1.0, reset=r, scale=False
    ),
    "KLIF with scale_reset": lambda x, r: reference.rectified_leaky(
        x, tau=1.7, slope=SLOPE, threshold=1.0, reset=r, scale=True
    ),
    "CUBALIF": lambda x, r: reference.current_based(
        x, current_decay=0.5, decay=0.75, threshold=0.5, reset=r
    ),
    "ILIF": lambda x, r: reference.integer_leaky(x, tau=1.3, threshold=0.7, levels=4),
}


@pytest.mark.parametrize(
    ("name", "reset"), [(name, reset) for name in LOOPS for reset in CASES[name].resets]
)
def test_the_lowered_neuron_follows_its_equations(name: str, reset: float | None) -> None:
    sequence = currents(name)
    lowered = lower(make(name, "s", reset).double(), sequence, EagerLowering())

    spikes, membranes = LOOPS[name](sequence.flatten(1).tolist(), reset)

    assert 0.05 < (lowered.spikes > 0).double().mean() < 0.95
    assert lowered.spikes.flatten(1).tolist() == spikes
    error = lowered.membranes.flatten(1) - torch.tensor(membranes, dtype=torch.float64)
    assert error.abs().max() <= ROUNDING


def test_every_covered_class_is_tested() -> None:
    made = {type(make(name, case.modes[0], case.resets[0])) for name, case in CASES.items()}

    assert made == set(NEURONS)


def test_a_surrogate_reaches_the_neuron() -> None:
    module = make("LIF", "m", None, surrogate_function=surrogate.SoftSign(3.0))
    twin, sequence = copy.deepcopy(module), currents("LIF").requires_grad_()

    expected = gradients(run(module, module, sequence), module, sequence)[0]
    found = gradients(lower(twin, sequence, EagerLowering()), twin, sequence)[0]

    error = (found - expected).abs().max() / expected.abs().max()
    assert error <= GRADIENT_TOLERANCE[torch.float64]

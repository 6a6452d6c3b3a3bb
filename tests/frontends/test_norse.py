# pyright: basic
"""The Norse frontend computes what Norse computes, bit for bit, outputs and states."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.frontends.eager import EagerLowering
from tests.frontends.norse_cases import (
    ADAPTIVE,
    CASES,
    HIDDEN,
    SEQUENCES,
    TIME,
    WIDTH,
    Make,
    Neuron,
    assert_close,
    assert_fires,
    assert_same,
    currents,
    gradients,
    lowered,
    made,
    run,
    snn,
    values,
)

FLOAT32_GRADIENT = 1e-5
"""Relative to the largest gradient: other orders of float32 sums over time and batch."""
FLOAT64_GRADIENT = 1e-12
LIBRARY_FLOAT32 = 1e-7
"""Norse takes some steps in float32 whatever its input: the square root of pi in "heavi_erfc",
the square of alpha in "circ", and v_leak - v in the first step of LIF, LIFRecurrent and LI."""


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_states_are_bit_equal(make: Make, dtype: torch.dtype) -> None:
    neuron = made(make, dtype)
    inputs = currents(neuron, dtype)

    expected = run(neuron, neuron, inputs)
    found = run(lowered(neuron), neuron, inputs)

    assert_fires(neuron, expected[0])
    assert_same(found, expected)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, FLOAT32_GRADIENT), (torch.float64, FLOAT64_GRADIENT)]
)
def test_gradients_agree(make: Make, dtype: torch.dtype, tolerance: float) -> None:
    neuron = made(make, dtype)

    expected = gradients(neuron, neuron, dtype)
    found = gradients(lowered(neuron), neuron, dtype)

    rounded = {name: expected.pop(name) for name in ["v_leak"] if name in expected}
    assert_close(
        {name: found.pop(name) for name in rounded}, rounded, max(tolerance, LIBRARY_FLOAT32)
    )
    assert_close(found, expected, tolerance)


def test_autapses_get_no_gradient() -> None:
    neuron = made(lambda: snn.LIFRecurrentCell(WIDTH, HIDDEN))

    found = gradients(lowered(neuron), neuron, torch.float32)

    assert not found["recurrent_weights"].diagonal().any()
    assert found["recurrent_weights"].any()


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
def test_recorded_states_are_sequences(make: Make) -> None:
    neuron = made(make)
    neuron.record_states = True
    inputs = currents(neuron)

    expected = neuron(inputs)
    found = lowered(neuron)(inputs)

    assert_same((found[0], [found[1]]), (expected[0], [expected[1]]))
    assert found[1].v.shape[0] == TIME


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
def test_a_sequence_goes_on_from_a_passed_state(make: Make) -> None:
    neuron = made(make)
    first, second = currents(neuron), currents(neuron).flip(0)

    expected = neuron(second, neuron(first)[1])
    call = lowered(neuron)
    found = call(second, state=call(input_tensor=first)[1])

    assert_same((found[0], [found[1]]), (expected[0], [expected[1]]))


def test_a_state_of_one_number_stands_for_all_neurons() -> None:
    neuron = snn.LIFCell()
    current = currents(neuron)[0]
    state = neuron.initial_state(current)._replace(v=torch.tensor(0.5))

    assert_same(
        (lowered(neuron)(current, state)[0], [lowered(neuron)(current, state)[1]]),
        (neuron(current, state)[0], [neuron(current, state)[1]]),
    )


def test_the_lowering_learns_where_a_state_ends() -> None:
    neuron, lowering = snn.LIFCell(), EagerLowering()

    _, states = run(lowered(neuron, lowering), neuron, currents(neuron))

    assert lowering.held[id(neuron), "membrane"] is states[-1].v
    assert lowering.held[id(neuron), "current"] is states[-1].i


@pytest.mark.parametrize("make", [snn.LSNNCell, snn.LIFBoxCell, snn.LICell])
def test_parameters_of_a_module_stay_tensors(make: Callable[..., Neuron]) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in values(*ADAPTIVE, learned=True).items():
                setattr(self, name, value)
            self.method, self.alpha, self.reset_method = "super", 100.0, snn.reset_value

    neuron = make(p=Learned())
    inputs = currents(neuron)

    expected = run(neuron, neuron, inputs)
    found = run(lowered(neuron), neuron, inputs)

    assert_same(found, expected)
    torch.autograd.backward(found[0].sum())
    assert neuron.p.tau_mem_inv.grad.abs() > 0


METHODS = {
    "super": 100.0,
    "heaviside": 1.0,
    "triangle": 0.3,
    "tanh": 1.5,
    "circ": 0.7,
    "heavi_erfc": 0.9,
}


@pytest.mark.parametrize(("method", "alpha"), METHODS.items(), ids=METHODS)
def test_every_threshold_method_has_its_derivative(method: str, alpha: float) -> None:
    neuron = snn.IAFCell(snn.IAFParameters(method=method, alpha=torch.tensor(alpha)))
    inputs = torch.linspace(-2, 4, 41, dtype=torch.float64)
    weights = torch.linspace(1, 2, 41, dtype=torch.float64)
    found: list[Tensor] = []

    for call in (lowered(neuron), neuron):
        current = inputs.clone().requires_grad_()
        spikes, state = call(current)
        torch.autograd.backward(((spikes + state.v) * weights).sum())
        assert current.grad is not None
        found.append(current.grad)

    tolerance = LIBRARY_FLOAT32 if method in {"circ", "heavi_erfc"} else FLOAT64_GRADIENT
    assert_close({"": found[0]}, {"": found[1]}, tolerance)

# pyright: basic
"""Norse's containers, what is refused, and what a real call shows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from norse.torch.module.snn import SNNCell
from torch import Tensor, nn

from snncompile.capture import capture
from snncompile.errors import CaptureError
from snncompile.frontends.norse import FRONTEND
from snncompile.ir.text import text
from tests.frontends.eager import EagerLowering, lowered_calls
from tests.frontends.norse_cases import (
    BATCH,
    CASES,
    TIME,
    WIDTH,
    Make,
    currents,
    made,
    snn,
)


def eager(model: nn.Module, *args: Any) -> Any:
    """What a model returns when every covered module in it is lowered."""
    with lowered_calls(FRONTEND, EagerLowering()), torch.no_grad():
        return model(*args)


def test_a_lift_runs_a_layer_over_time() -> None:
    model = snn.Lift(nn.Linear(WIDTH, 3))

    assert torch.equal(eager(model, currents(snn.LIF())), model(currents(snn.LIF())))


def test_a_lift_hands_on_the_states_of_what_it_lifts() -> None:
    model = snn.Lift(
        snn.SequentialState(nn.Linear(WIDTH, 8), snn.LIFCell(), nn.Linear(8, 3), snn.LICell())
    )
    inputs = currents(snn.LIF())

    found, expected = eager(model, inputs), model(inputs)

    assert torch.equal(found[0], expected[0])
    assert found[1][0] is None
    assert torch.equal(found[1][1].v, expected[1][1].v)
    assert torch.equal(found[1][3].i, expected[1][3].i)


def test_a_lift_over_a_stateful_module_refuses_a_state() -> None:
    model, inputs = snn.Lift(snn.LIFCell()), currents(snn.LIF())

    with pytest.raises(CaptureError, match="pass the sequence alone"):
        eager(model, (inputs, snn.LIFCell().initial_state(inputs[0])))


def test_a_sequential_state_of_sequences_is_captured() -> None:
    torch.manual_seed(0)
    model = snn.SequentialState(
        snn.Lift(nn.Conv2d(1, 2, 3)), snn.LIF(), nn.Flatten(2), nn.Linear(32, 5), snn.LI()
    )
    nn.init.uniform_(model[0].lifted_module.weight, -0.1, 0.5)
    inputs = torch.rand(TIME, BATCH, 1, 6, 6) * 5

    program = capture(model, inputs)

    assert "lif(" in text(program)
    assert "integrator(" in text(program)
    assert [state.label for state in program.states] == [
        "1.current",
        "1.membrane",
        "4.current",
        "4.membrane",
    ]
    found, expected = eager(model, inputs), model(inputs)
    assert 0.05 < model[1](model[0](inputs))[0].mean() < 0.95
    assert torch.equal(found[0], expected[0])


def test_a_sequential_state_of_cells_is_captured_one_step_at_a_time() -> None:
    model = snn.SequentialState(nn.Linear(WIDTH, 8), snn.LIFCell(), nn.Linear(8, 3), snn.LSNNCell())

    program = capture(model, torch.rand(BATCH, WIDTH), time_steps=TIME)

    assert {state.label for state in program.states} == {
        "1.membrane",
        "1.current",
        "3.membrane",
        "3.current",
        "3.adaptation",
    }


class Custom(snn.LIFCell):  # type: ignore[misc]
    def initial_state(self, input_tensor: Tensor) -> Any:
        return super().initial_state(input_tensor)


class Forward(snn.LIFCell):  # type: ignore[misc]
    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        return super().forward(input_tensor, state)


def _keep(z: Tensor, v: Tensor, reset: Tensor, threshold: Tensor) -> Tensor:
    return v


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "Norse's LIFAdExCell steps with .* not covered; covered are LIF, LIFRecurrent": snn.LIFAdExCell,
    "Norse's Izhikevich": lambda: snn.IzhikevichCell(snn.tonic_spiking),
    "Norse's LIFExCell steps with lif_ex_feed_forward_step": snn.LIFExCell,
    "Norse's LIFRefracCell steps with": snn.LIFRefracCell,
    "Norse's CobaLIFCell is not covered": lambda: snn.CobaLIFCell(4, 4),
    "Norse's LILinearCell is not covered": lambda: snn.LILinearCell(4, 4),
    "Norse's RegularizationCell is not covered": snn.RegularizationCell,
    "use method='super' and adjoint=False": lambda: snn.LIFCell(
        snn.LIFParameters(method="adjoint")
    ),
    "lsnn_feed_forward_adjoint_step.*adjoint=False": lambda: snn.LSNNCell(adjoint=True),
    "method='logistic'; use one of super, heaviside": (
        lambda: snn.LIFCell(snn.LIFParameters(method="logistic"))
    ),
    "learns alpha": lambda: snn.LIFCell(
        snn.LIFParameters(method="tanh", alpha=nn.Parameter(torch.tensor(2.0)))
    ),
    "resets with _keep; use reset_value": (
        lambda: snn.LIFBoxCell(snn.LIFBoxParameters(reset_method=_keep))
    ),
    "Norse's Custom makes its own initial state": Custom,
    "Norse's Forward overrides the forward": Forward,
}


@pytest.mark.parametrize(("message", "make"), REFUSED.items(), ids=REFUSED)
def test_what_is_not_covered_is_named(message: str, make: Callable[[], nn.Module]) -> None:
    neuron = make()

    assert not FRONTEND.covers(neuron)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(FRONTEND.refusal(neuron))


def test_containers_encoders_and_neurons_of_the_users_own_are_left_to_the_tracer() -> None:
    def own(inputs: Tensor, state: Tensor, p: nn.Module, dt: float) -> tuple[Tensor, Tensor]:
        return inputs, state

    cell = SNNCell(own, lambda inputs: inputs, nn.Module())

    for module in (snn.SequentialState(), snn.ConstantCurrentLIFEncoder(3), cell):
        assert not FRONTEND.covers(module)
        assert FRONTEND.refusal(module) is None
        assert FRONTEND.stateless(module) is None


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_output_and_membrane_of_a_real_call_are_found(make: Make) -> None:
    neuron = made(make)
    inputs = currents(neuron)
    output = neuron(inputs if hasattr(neuron, "record_states") else inputs[0])

    assert FRONTEND.spikes(neuron, output) is output[0]
    assert FRONTEND.membrane(neuron, output) is output[1].v
    FRONTEND.reset(neuron)


def test_the_membrane_of_recorded_states_is_the_last() -> None:
    neuron = snn.LIF(record_states=True)
    output = neuron(currents(neuron))

    membrane = FRONTEND.membrane(neuron, output)

    assert membrane is not None
    assert torch.equal(membrane, output[1].v[-1])


def test_a_lift_has_no_spikes_of_its_own() -> None:
    lift = snn.Lift(nn.Linear(WIDTH, 3))
    output = lift(currents(snn.LIF()))

    assert FRONTEND.spikes(lift, output) is None
    assert FRONTEND.membrane(lift, output) is None

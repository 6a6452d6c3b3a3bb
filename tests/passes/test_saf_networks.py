"""The networks that spike accumulation forwarding is shown on: captured, active, exact."""
# pyright: basic

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snncompile
import snncompile.nn as own
from snncompile.runtime.schedule import ScheduleName
from tests.passes.saf_cases import CASES, JELLY, PLAIN, Case

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
both = pytest.mark.parametrize("dyadic", [False, True], ids=["active", "dyadic"])

QUIET, LOUD = 0.04, 0.7
"""Between these mean rates a comparison of spikes, and of surrogate gradients, means something."""


def neurons(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (own.LIF, neuron.LIFNode))]


def spikes_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All spikes of every neuron, the neurons in the model's order."""
    emitted: dict[nn.Module, list[Tensor]] = {each: [] for each in neurons(model)}
    for each, spikes in emitted.items():
        each.register_forward_hook(lambda _, __, out, spikes=spikes: spikes.append(out))
    model(x)
    return [torch.cat([part.flatten() for part in spikes]) for spikes in emitted.values()]


@every_case
def test_each_is_captured_with_every_neuron(case: Case) -> None:
    program = snncompile.capture(case.model(), case.input())

    assert len(list(program.neurons())) == len(neurons(case.model()))
    assert "lif(" in snncompile.text(program)


@every_case
@pytest.mark.parametrize("schedule", ["steps", "layers"])
def test_each_runs_as_captured(case: Case, schedule: ScheduleName) -> None:
    model = case.model(dyadic=True)
    fast = snncompile.transform(model, [], schedule=schedule)

    report = snncompile.verify(model, fast, case.input(dyadic=True))

    assert report.ok
    assert report.moved == 0


@every_case
@both
def test_every_layer_fires_and_none_always(case: Case, dyadic: bool) -> None:
    for spikes in spikes_of(case.model(dyadic=dyadic), case.input(dyadic=dyadic)):
        assert QUIET < spikes.mean() < LOUD


@every_case
def test_dyadic_parameters_leave_nothing_to_round(case: Case) -> None:
    single, double = (
        case.model(dyadic=True, dtype=dtype)(case.input(dyadic=True, dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    )

    assert single.abs().max() > 0
    torch.testing.assert_close(single.double(), double, rtol=0, atol=0)


@pytest.mark.parametrize(("plain", "jelly"), list(zip(PLAIN[:4], JELLY, strict=True)))
def test_both_forms_are_the_same_network(plain: Case, jelly: Case) -> None:
    expected = plain.model(dyadic=True)(plain.input(dyadic=True))

    found = jelly.model(dyadic=True)(jelly.input(dyadic=True))

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_case
def test_every_parameter_learns(case: Case) -> None:
    model = case.model()

    loss = model(case.input()).square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))

    assert all(gradient.abs().max() > 0 for gradient in gradients)

"""Event-driven synapses after SAF: they read accumulations, and add up the spikes in them."""

# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snncompile
from snncompile.nn import LIF
from snncompile.passes.event_driven import EventDriven, synapses
from snncompile.passes.saf import SAF
from snncompile.rewrite import copy_program
from snncompile.runtime.schedule import Runner
from tests.programs import dyadic_, feedforward

STEPS, BATCH = 9, 6
BOTH = pytest.mark.parametrize("variant", ["each-step", "final"])


def run(program: Any, schedule: Any, x: Tensor) -> Any:
    """Outputs, last states, and the gradients of the parameters."""
    states = tuple(
        torch.zeros(BATCH if s.shape[0] == "N" else 1, *(int(n) for n in s.shape[1:]))
        for s in program.states
    )
    outputs, last = Runner(program, schedule).run((x,), states, STEPS)
    weights = torch.arange(outputs[0].numel()).remainder(5) / 4
    loss = (outputs[0].flatten() * weights).sum()
    return outputs, last, torch.autograd.grad(loss, list(program.root.parameters()))


@BOTH
@pytest.mark.parametrize("schedule", ["layers", 4, "steps"])
def test_dyadic_weights_keep_every_bit(variant: Any, schedule: Any) -> None:
    program = feedforward((8, 80, 12, 4))
    assert SAF(variant=variant)(program) == 3
    after = copy_program(program)
    torch.manual_seed(1)
    x = (torch.rand(STEPS, BATCH, 8) < 0.3).float()

    assert EventDriven(below=1.0)(after) == 3
    found, expected = run(after, schedule, x), run(program, schedule, x)

    if schedule != "steps" and variant == "each-step":
        assert [seen.by_events for seen in synapses(after).values()] == [True] * 3
    assert expected[0][0].count_nonzero() > 0
    torch.testing.assert_close(found[:2], expected[:2], rtol=0, atol=0)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-6)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(2, 8, 3, stride=2), LIF(decay=0.5), nn.Flatten()]
    layers += [nn.Linear(8 * 7 * 7, 64), LIF(decay=0.5), nn.Linear(64, 10), LIF(decay=0.5)]
    return dyadic_(nn.Sequential(*layers), 4)


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_convolutions_and_linear_layers_of_a_model(variant: Any, training: bool) -> None:
    model = network().train(training)
    x = (torch.rand(STEPS, 4, 2, 16, 16) < 0.2).float()
    saf = snncompile.transform(model, SAF(variant=variant), schedule="layers")
    fast = snncompile.transform(model, [SAF(variant=variant), EventDriven(1.0)], schedule="layers")

    expected, found = saf(x), fast(x)

    assert expected.count_nonzero() > 0
    assert torch.equal(found, expected)
    marked = synapses(fast.program)
    assert [marked[name].decay for name in ("3", "5")] == [0.5, 0.5]
    fast.reset()
    saf.reset()
    assert torch.equal(fast(x[:, :2]), saf(x[:, :2]))


def test_no_gradient_and_other_dtypes() -> None:
    model = network().double()
    x = (torch.rand(STEPS, 4, 2, 16, 16) < 0.2).double()
    fast = snncompile.transform(model, [SAF(), EventDriven(1.0)], schedule="layers")

    with torch.no_grad():
        assert torch.equal(fast(x), snncompile.transform(model, [], schedule="steps")(x))
    assert synapses(fast.program)["3"].by_events


def test_verify_compares_it_with_the_model() -> None:
    model = network()
    x = (torch.rand(STEPS, 4, 2, 16, 16) < 0.2).float()
    fast = snncompile.transform(model, [SAF(), EventDriven(1.0)], schedule="layers")

    report = snncompile.verify(model, fast, x)

    assert report.ok, str(report)
    assert "bit-equal" in str(report)


@BOTH
def test_inputs_that_are_no_events_are_multiplied(variant: Any) -> None:
    program = feedforward((8, 80, 12, 4))
    SAF(variant=variant)(program)
    after = copy_program(program)
    EventDriven(below=1.0)(after)
    x = torch.randint(0, 16, (STEPS, BATCH, 8)) / 16

    found, expected = run(after, "layers", x), run(program, "layers", x)

    torch.testing.assert_close(found[:2], expected[:2], rtol=0, atol=0)
    assert not synapses(after)["0"].by_events

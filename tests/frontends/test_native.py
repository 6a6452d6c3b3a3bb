"""snncompile's own neurons: their equations, their hidden state, and how they are read."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snncompile.nn as own
from snncompile.capture import capture
from snncompile.errors import InputError
from snncompile.frontends.native import FRONTEND
from snncompile.ir.text import text
from tests.frontends.eager import EagerLowering

TIME, BATCH, WIDTH = 12, 3, 5
GRADIENT = 1e-12
"""Relative, in float64: the expected gradients multiply in another order."""


class Net(nn.Module):
    """A layer, a neuron, a read-out, and the loop."""

    def __init__(self, *, resets: bool = True) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(WIDTH, WIDTH), own.LIF(decay=0.75)
        self.head = own.LeakyIntegrator(decay=0.5)
        self.resets = resets

    def forward(self, x: Tensor) -> Tensor:
        if self.resets:
            own.reset(self)
        return torch.stack([self.head(self.lif(self.fc(x_t))) for x_t in x])


def currents(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(TIME, BATCH, WIDTH, generator=generator).to(dtype) * 1.5 - 0.25


def loop(trace: list[float], decay: float, threshold: float, reset: str) -> list[list[float]]:
    """(spike, membrane) of every step of one LIF neuron."""
    membrane, steps = 0.0, list[list[float]]()
    for current in trace:
        membrane = decay * membrane + current
        spike = float(membrane >= threshold)
        if spike:
            membrane = {"subtract": membrane - threshold, "zero": 0.0, "none": membrane}[reset]
        steps.append([spike, membrane])
    return steps


def assert_fires(spikes: Tensor) -> None:
    assert 0.05 < spikes.mean() < 0.95


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", [own.LIF, own.IF])
def test_the_equations_hold(kind: type[own.IF], reset: Any) -> None:
    neuron = kind(threshold=1.25, reset=reset)
    inputs = currents()

    found = [(neuron(current), neuron.membrane) for current in inputs]

    traces = [[float(current) for current in trace] for trace in inputs.flatten(1).T]
    steps = [loop(trace, neuron.decay, 1.25, reset) for trace in traces]
    expected = torch.tensor(steps, dtype=torch.float64).permute(1, 2, 0)
    expected = expected.reshape(TIME, 2, BATCH, WIDTH)
    assert_fires(expected[:, 0])
    for (spikes, membrane), wanted in zip(found, expected, strict=True):
        assert torch.equal(spikes, wanted[0])
        assert membrane is not None
        assert torch.equal(membrane, wanted[1])


def test_a_leaky_integrator_returns_its_membrane() -> None:
    neuron = own.LeakyIntegrator(decay=0.5)

    outputs = [neuron(current) for current in currents()]

    expected = torch.zeros(BATCH, WIDTH, dtype=torch.float64)
    for output, current in zip(outputs, currents(), strict=True):
        expected = 0.5 * expected + current
        assert torch.equal(output, expected)


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_passes_the_reset_unless_it_is_detached(detach: bool) -> None:
    neuron = own.LIF(decay=0.5, detach_reset=detach)
    first = torch.full((1,), 1.25, dtype=torch.float64, requires_grad=True)

    neuron(first)
    second = neuron(torch.zeros(1, dtype=torch.float64))
    torch.autograd.backward(second.sum())

    def slope(distance: float) -> float:
        return 1 / (1 + (torch.pi * distance) ** 2)

    through_membrane = 0.5 if detach else 0.5 * (1 - slope(0.25))
    assert first.grad is not None
    assert abs(first.grad.item() - slope(0.125 - 1) * through_membrane) < GRADIENT


def test_a_learned_decay_starts_where_it_was_set_and_gets_a_gradient() -> None:
    neuron = own.LIF(decay=0.75, learn_decay=True).double()

    for current in currents():
        neuron(current)
    membrane = neuron.membrane
    assert membrane is not None
    torch.autograd.backward(membrane.sum())

    assert list(neuron.state_dict()) == ["logit"]
    assert neuron.logit is not None
    assert abs(torch.sigmoid(neuron.logit).item() - 0.75) < 1e-6
    assert neuron.logit.grad is not None
    assert neuron.logit.grad.abs() > 0


def test_the_membrane_is_kept_until_reset_and_is_no_part_of_the_state_dict() -> None:
    net = Net(resets=False).double()

    first = net(currents())
    second = net(currents())
    own.reset(net)
    third = net(currents())

    assert not torch.equal(first, second)
    assert torch.equal(first, third)
    assert list(net.state_dict()) == ["fc.weight", "fc.bias"]


def test_copies_and_pickles_start_at_rest() -> None:
    net = Net(resets=False).double()
    first = net(currents())

    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(copied(currents()), first)


def test_another_batch_size_without_a_reset_is_refused() -> None:
    neuron = own.LIF()
    neuron(torch.zeros(2, 3))

    with pytest.raises(
        InputError, match=r"shape \(2, 3\) but got a current of shape \(4, 3\); call"
    ):
        neuron(torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("decay=1.5 is not between 0 and 1", {"decay": 1.5}),
        ("decay=1 cannot be learned", {"decay": 1.0, "learn_decay": True}),
        ("reset='hard' is not one of subtract, zero, none", {"reset": "hard"}),
        ("surrogate='step' is not one of atan", {"surrogate": "step"}),
    ],
)
def test_options_that_cannot_be_are_refused(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        own.LIF(**options)


def test_a_neuron_prints_its_options() -> None:
    assert repr(own.LIF(decay=0.9)) == "LIF(decay=0.9, threshold=1, reset='subtract')"
    assert repr(own.LeakyIntegrator()) == "LeakyIntegrator(decay=0.5)"


@pytest.mark.parametrize(
    "neuron",
    [own.LIF(learn_decay=True), own.IF(reset="zero"), own.LeakyIntegrator()],
    ids=["LIF", "IF", "LeakyIntegrator"],
)
def test_lowering_is_the_neuron_itself(neuron: own.Neuron) -> None:
    lowering = EagerLowering()
    expected = torch.stack([neuron(current) for current in currents()])
    membrane = neuron.membrane

    FRONTEND.begin(neuron)
    found = torch.stack([FRONTEND.lower(neuron, lowering, current) for current in currents()])
    FRONTEND.end(neuron, lowering)

    assert FRONTEND.covers(neuron)
    assert torch.equal(found, expected)
    assert membrane is not None
    assert torch.equal(lowering.held[id(neuron), "membrane"], membrane)


def test_a_reset_after_the_last_step_leaves_nothing_to_carry() -> None:
    neuron, lowering = own.LIF(), EagerLowering()

    FRONTEND.begin(neuron)
    FRONTEND.lower(neuron, lowering, currents()[0])
    own.reset(neuron)
    FRONTEND.end(neuron, lowering)

    assert not lowering.held[id(neuron), "membrane"].any()


def test_what_a_real_call_left_is_found() -> None:
    neuron = own.LIF()
    output = neuron(currents()[0])

    assert FRONTEND.spikes(neuron, output) is output
    assert FRONTEND.membrane(neuron, output) is neuron.membrane
    FRONTEND.reset(neuron)
    assert neuron.membrane is None
    assert FRONTEND.stateless(neuron) is None
    assert not FRONTEND.takes_sequences(neuron)


class Overriding(own.LIF):
    def forward(self, current: Tensor) -> Tensor:
        return super().forward(2 * current)


def test_a_replaced_forward_is_refused() -> None:
    assert not FRONTEND.covers(Overriding())
    assert FRONTEND.refusal(Overriding()) == (
        "Overriding overrides forward of snncompile.nn; override step instead"
    )
    assert FRONTEND.refusal(nn.Linear(1, 1)) is None


@pytest.mark.parametrize(("resets", "carried"), [(True, ""), (False, ", carried")])
def test_a_captured_loop_carries_the_membrane_only_where_it_is_not_reset(
    resets: bool, carried: str
) -> None:
    program = capture(Net(resets=resets), currents(torch.float32))

    assert f'"lif.membrane": [N, 5] float32 = 0{carried}\n' in text(program)
    assert "lif(%fc, %lif_membrane, Decay(0.75), Subtract(), atan(2), threshold=1" in text(program)

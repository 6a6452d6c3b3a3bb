"""One step of many neurons by a kernel, against the neuron's definition."""
# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor

from snncompile.ir import neurons
from snncompile.kernels.settings import Hole
from snncompile.runtime.step_neuron import LEAST, NeuronStep
from tests.programs import LIF

GRADIENT = 1e-6
"""Relative, in float32: a kernel's derivative is rounded in another order."""

ACCUMULATING = {"neuron": neurons.lif, **LIF}


def results(call: Any, *operands: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What a call returns, and the gradients of a weighted sum of it by its operands."""
    leaves = [operand.clone().requires_grad_() for operand in operands]
    found = list(call(*leaves))
    weights = [torch.linspace(-1, 1, value.numel()).reshape(value.shape) for value in found]
    loss = torch.stack([(w * v).sum() for w, v in zip(weights, found, strict=True)]).sum()
    given = torch.autograd.grad(loss, leaves, allow_unused=True)
    return found, [g if g is not None else torch.zeros(()) for g in given]


@pytest.mark.parametrize("width", [8, LEAST])
@pytest.mark.parametrize(
    ("neuron", "settings"), [(neurons.lif, LIF), (neurons.accumulating, ACCUMULATING)]
)
def test_a_step_has_the_bits_of_the_definition(neuron: Any, settings: Any, width: int) -> None:
    threshold = torch.full((width,), 0.75)
    holes = tuple({**settings, "threshold": Hole(0)}.items())
    step = NeuronStep(neuron, holes)
    current, state = torch.randn(2, width), torch.randn(2, width)

    found, gradients = results(lambda c, s, t: step(c, (s,), (t,)), current, state, threshold)

    expected, wanted = results(
        lambda c, s, t: neuron(c, s, **{**settings, "threshold": t}), current, state, threshold
    )
    assert 0 < expected[0].mean() < 1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for mine, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=GRADIENT, atol=GRADIENT)


def test_a_state_that_is_one_number_for_all_needs_no_memory() -> None:
    step = NeuronStep(neurons.lif, tuple(LIF.items()))
    current = torch.randn(2, LEAST)

    spikes, membrane = step(current, (torch.zeros(()).expand(2, LEAST),), ())

    settings: Any = LIF
    expected = neurons.lif(current, torch.zeros(2, LEAST), **settings)
    torch.testing.assert_close((spikes, membrane), expected, rtol=0, atol=0)

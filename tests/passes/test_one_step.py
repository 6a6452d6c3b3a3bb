# pyright: basic
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snncompile
from snncompile.errors import PassRefusedError
from snncompile.ir import neurons
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.ir.windows import Projection, cut, windows
from snncompile.passes.one_step import OneStep
from snncompile.rewrite import copy_program
from snncompile.runtime.schedule import Runner
from tests.passes.plain_loop import assert_active, double, run
from tests.programs import Step, convolutional, dyadic_
from tests.reference import one_step as reference


def plain(
    *channels: int, size: tuple[int, int] = (8, 8), decay: float = 0.5, **settings: Any
) -> Program:
    """Convolution and LIF, once per pair of channel counts, on one map; spikes are stacked."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(channels, channels[1:], strict=False)]
    root = dyadic_(nn.Sequential(*layers), 4.0)
    step = Step(root)
    value = step.input("x", channels[0], *size)
    membranes = [step.state(f"lif{i}.membrane", c, *size) for i, c in enumerate(channels[1:])]
    for i, membrane in enumerate(membranes):
        current = step.module(str(i), value)
        settings = {"charge": neurons.Decay(decay), **settings}
        value = step.lif(current, membrane, f"lif{i}", **settings)
    return step.program(value)


def spikes_of(program: Program, x: Tensor) -> Tensor:
    """The first output of one step, [N, ...]."""
    (output,), fired = run(program, x[None])
    assert_active(fired)
    return output[0].detach()


def maps(*shape: int) -> Tensor:
    """Zeros and ones."""
    torch.manual_seed(1)
    return torch.randint(0, 2, shape).float()


@pytest.mark.parametrize("projection", ["sine", "mean"])
def test_a_module_of_two_layers_is_that_of_the_reference(projection: Projection) -> None:
    program = double(plain(1, 3, 3))
    x = maps(2, 1, 8, 8).double()
    weights = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in program.root
    ]

    OneStep(projection=projection)(program)

    found = spikes_of(program, x)
    for sample, spikes in zip(x, found, strict=True):
        expected = reference.two_layers(
            sample.numpy(), *weights, span="half", projection=projection
        )
        np.testing.assert_array_equal(spikes.numpy(), expected)


@pytest.mark.parametrize("channels", [(1, 3), (1, 3, 3)])
def test_without_memory_every_window_is_by_itself(channels: tuple[int, ...]) -> None:
    program, alone = plain(*channels, decay=0.0), plain(*channels, size=(4, 4), decay=0.0)
    x = maps(2, 1, 8, 8)

    OneStep()(program)

    found = spikes_of(program, x)
    for place in windows(8, 8, "half"):
        expected = run(alone, cut(x, place)[None])[0][0][0]
        torch.testing.assert_close(cut(found, place), expected.detach(), rtol=0, atol=0)

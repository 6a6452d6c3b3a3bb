# pyright: basic
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor

import snncompile
from snncompile.ir.program import Program
from snncompile.nn import LIF
from snncompile.passes.parallel import Parallel, certificates
from snncompile.rewrite import copy_program
from snncompile.runtime.schedule import Runner
from tests.passes.plain_loop import double
from tests.programs import convolutional, feedforward, recurrent

STEPS = 60

ROUNDING = 1e-4
"""Relative, in float32: gradients of learnable settings and of layers are summed in other orders."""


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel would run instead of what is tested here."""
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")


def results(program: Program, schedule: Any, dtype: torch.dtype, batch: int) -> Any:
    """Outputs, last states and gradients of a random sequence."""
    shape = program.placeholders()[0].meta["val"].shape[1:]
    torch.manual_seed(1)
    x = (torch.randn(STEPS, batch, *shape, dtype=dtype)).requires_grad_()
    sizes = [[int(size) for size in state.shape[1:]] for state in program.states]
    states = tuple(torch.zeros(batch, *size, dtype=dtype) for size in sizes)
    outputs, last = Runner(program, schedule).run((x,), states, STEPS)
    weights = torch.linspace(-1, 2, outputs[0].numel(), dtype=dtype)
    loss = (outputs[0].flatten() * weights).sum()
    gradients = torch.autograd.grad(loss, (x, *program.root.parameters()))
    assert 0 < outputs[0].count_nonzero() < outputs[0].numel() or outputs[0].dim() < 3
    return outputs, last, gradients


@pytest.mark.parametrize("make", [lambda: feedforward((8, 16, 12, 4)), convolutional])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_and_gradients_keep_their_bits(
    make: Callable[[], Program], dtype: torch.dtype, batch: int, training: bool
) -> None:
    before = make() if dtype == torch.float32 else double(make())
    before.root.train(training)
    after = copy_program(before)
    rewritten = Parallel()(after)

    for schedule in ("layers", 64):
        expected = results(before, schedule, dtype, batch)
        torch.testing.assert_close(results(after, schedule, dtype, batch), expected, rtol=0, atol=0)

    assert rewritten == len(certificates(after)) == len(list(before.neurons()))


def test_a_neuron_with_feedback_runs_as_before() -> None:
    program = recurrent()

    assert Parallel()(program) == 0
    assert certificates(program) == {}


class Chain(torch.nn.Module):
    """Two narrow layers over whole sequences, written with this project's neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 10), torch.nn.Linear(10, 4)
        self.lif1, self.lif2 = LIF(), LIF()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(
            [self.lif2(self.second(self.lif1(self.first(value)))) for value in x.unbind(0)]
        )


def test_a_transformed_module_says_how_its_neurons_ran() -> None:
    model = Chain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = torch.randn(400, 2, 6)
    fast = snncompile.transform(model, "parallel", schedule="layers", example_inputs=x[:4])
    plain = snncompile.transform(model, [], schedule="layers", example_inputs=x[:4])

    spikes = fast(x)
    found = certificates(fast.program)

    assert 0 < spikes.mean() < 1
    torch.testing.assert_close(spikes, plain(x), rtol=0, atol=0)
    assert set(found) == {"lif1", "lif2"}
    assert all(item.sweeps >= 1 and item.blocks in item.ways.values() for item in found.values())


def spikingjelly_network() -> torch.nn.Module:
    """A convolution, a BatchNorm over whole sequences, a hard reset and a learnable decay."""
    network = torch.nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1),
        layer.BatchNorm2d(4),
        neuron.LIFNode(),
        layer.Flatten(),
        layer.Linear(144, 12),
        neuron.ParametricLIFNode(v_reset=None),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    functional.set_step_mode(network, "m")
    return network


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_model_of_a_library_fires_the_same_and_learns_the_same(training: bool) -> None:
    network = spikingjelly_network().train(training)
    x = torch.randn(40, 3, 1, 6, 6)
    fast = snncompile.transform(network, "parallel", schedule="layers", example_inputs=x[:4])
    found = []
    for model in (network, fast):
        functional.reset_net(network)
        fast.reset()
        spikes = model(x)
        found.append((spikes, torch.autograd.grad(spikes[-1].sum(), list(network.parameters()))))

    assert 0 < found[0][0].mean() < 1
    assert set(certificates(fast.program)) == {"2", "5"}
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=ROUNDING, atol=ROUNDING)

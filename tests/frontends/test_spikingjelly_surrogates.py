# pyright: basic
# mypy: disallow-subclassing-any=False, warn-return-any=False
"""SpikingJelly's surrogates: each derivative against the library, and what is refused."""

import copy
import inspect

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snncompile.frontends.spikingjelly import FRONTEND
from snncompile.frontends.spikingjelly_surrogates import TABLE, surrogate_of
from snncompile.ir.surrogates import Surrogate, fire
from tests.frontends.eager import EagerLowering
from tests.frontends.spikingjelly_cases import (
    LibraryModule,
    assert_same,
    currents,
    lower,
    make,
    run,
)

TOLERANCE = 1e-12
"""Relative, in float64: the library spells some of the derivatives in another order."""

SURROGATES = [
    surrogate.ATan(),
    surrogate.ATan(1.3),
    surrogate.DeterministicPass(),
    surrogate.Erf(),
    surrogate.Erf(1.3),
    surrogate.FakeNumericalGradient(),
    surrogate.FakeNumericalGradient(0.7),
    surrogate.LeakyKReLU(),
    surrogate.LeakyKReLU(0.2, 1.5),
    surrogate.LogTailedReLU(),
    surrogate.LogTailedReLU(0.1),
    surrogate.NonzeroSignLogAbs(),
    surrogate.NonzeroSignLogAbs(2.5),
    surrogate.PiecewiseExp(),
    surrogate.PiecewiseExp(1.7),
    surrogate.PiecewiseLeakyReLU(),
    surrogate.PiecewiseLeakyReLU(0.5, 0.03),
    surrogate.PiecewiseQuadratic(),
    surrogate.PiecewiseQuadratic(1.7),
    surrogate.QPseudoSpike(),
    surrogate.QPseudoSpike(3.5),
    surrogate.Rect(),
    surrogate.Rect(2.5),
    surrogate.S2NN(),
    surrogate.S2NN(3.0, 0.7),
    surrogate.Sigmoid(),
    surrogate.Sigmoid(2),
    surrogate.SoftSign(),
    surrogate.SoftSign(3.0),
    surrogate.SquarewaveFourierSeries(),
    surrogate.SquarewaveFourierSeries(4, 5.0),
    surrogate.SuperSpike(),
    surrogate.SuperSpike(2.5),
]
EVERY = pytest.mark.parametrize("function", SURROGATES, ids=repr)


def distances() -> Tensor:
    """A fine grid over both tails, the threshold itself, and the corners of the formulas."""
    corners = torch.tensor([0.0, 0.2, 0.5, 1.0, 1 / 1.7, -0.2, -0.5, -1.0, -1 / 1.7])
    grid = torch.linspace(-3.1, 3.1, 501, dtype=torch.float64)
    return torch.cat([grid, corners.double()]).requires_grad_()


def gradient(spikes: Tensor, distance: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(spikes.sum(), distance)
    return found


@EVERY
def test_a_derivative_agrees_with_the_library(function: nn.Module) -> None:
    distance = distances()
    found = surrogate_of(function)
    assert found is not None

    spikes = fire(distance, found, strict=False)

    library = function(distance)
    assert torch.equal(spikes, library)
    expected = gradient(library, distance)
    error = (gradient(spikes, distance) - expected).abs()
    assert expected.abs().max() > 0
    assert torch.all(error <= TOLERANCE * expected.abs())


@EVERY
def test_a_neuron_learns_through_its_surrogate(function: nn.Module) -> None:
    module = make("LIF", "m", None, surrogate_function=function)
    twin, sequence = copy.deepcopy(module), currents("LIF").requires_grad_()

    library = run(module, module, sequence)
    lowered = lower(twin, sequence, EagerLowering())

    assert_same(lowered, library)
    expected = gradient(library.loss(), sequence)
    error = (gradient(lowered.loss(), sequence) - expected).abs().max()
    assert error <= TOLERANCE * expected.abs().max()


@EVERY
def test_a_surrogate_that_the_model_calls_is_one_node(function: nn.Module) -> None:
    lowering, distance = EagerLowering(), distances()

    assert FRONTEND.covers(function)
    spikes = FRONTEND.lower(function, lowering, distance)

    assert lowering.calls == ["spike"]
    assert torch.equal(spikes, function(distance))
    assert FRONTEND.spikes(function, spikes) is spikes
    assert FRONTEND.membrane(function, spikes) is None


def test_every_surrogate_of_the_library_is_known_or_does_not_step() -> None:
    members = inspect.getmembers(surrogate, inspect.isclass)
    kinds = {kind for _, kind in members if issubclass(kind, surrogate.SurrogateFunctionBase)}

    without = {surrogate.SurrogateFunctionBase, surrogate.MultiLevelSpikeCount}
    assert kinds - without - {surrogate.PoissonPass} == set(TABLE)
    assert {type(function) for function in SURROGATES} == set(TABLE)


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(distance: Tensor) -> Tensor:
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> Tensor:
        return 2 * grad_outputs[0]


def test_a_function_of_the_user_keeps_its_gradient() -> None:
    module = make("IF", "s", None, surrogate_function=Doubling.apply)
    twin, sequence = copy.deepcopy(module), currents("IF").requires_grad_()

    library = run(module, module, sequence)
    lowered = lower(twin, sequence, EagerLowering())

    assert surrogate_of(Doubling.apply) == Surrogate("function", function=Doubling)
    assert_same(lowered, library)
    found, expected = gradient(lowered.loss(), sequence), gradient(library.loss(), sequence)
    assert torch.allclose(found, expected, rtol=TOLERANCE, atol=0)


def test_the_bare_step_has_no_gradient() -> None:
    assert surrogate_of(surrogate.heaviside) == Surrogate("none")


LEARNED: LibraryModule = nn.Parameter(torch.tensor(2.0))


class Renamed(surrogate.ATan):
    pass


class Doubled(surrogate.ATan):
    @staticmethod
    def spiking_function(x: Tensor, alpha: float) -> Tensor:
        return 2 * surrogate.atan.apply(x, alpha)


def test_a_subclass_is_known_only_where_it_changes_nothing() -> None:
    assert surrogate_of(Renamed(3.0)) == Surrogate("atan", (3.0,))
    assert surrogate_of(Doubled()) is None
    assert not FRONTEND.covers(Doubled())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Doubled(), "its surrogate Doubled is not known; use one of ATan, "),
        (surrogate.PoissonPass(), "its surrogate PoissonPass is not known"),
        (surrogate.ATan(spiking=False), "has spiking=False, so it does not spike"),
        (surrogate.ATan(LEARNED), "a parameter of its surrogate ATan is a tensor"),
    ],
)
def test_a_neuron_with_another_surrogate_is_refused(function: LibraryModule, reason: str) -> None:
    module = neuron.LIFNode(surrogate_function=function)

    assert not FRONTEND.covers(module)
    assert reason in (FRONTEND.refusal(module) or "")
    assert FRONTEND.refusal(function) is None

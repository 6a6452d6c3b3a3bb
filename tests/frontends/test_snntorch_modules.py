# pyright: basic
"""snnTorch's spike functions, its StateLeaky, and what is refused."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snncompile.errors import CaptureError
from snncompile.frontends.snntorch import FRONTEND
from snncompile.frontends.snntorch_surrogates import surrogate_of
from snncompile.ir.surrogates import Surrogate, fire
from tests.frontends.eager import EagerLowering
from tests.frontends.snntorch_cases import (
    BATCH,
    WIDTH,
    Exact,
    assert_close,
    assert_fires,
    currents,
    lowered,
    snn,
)

FLOAT32_GRADIENT = 1e-5
"""Relative to the largest gradient: other orders of float32 sums over time, batch and width."""
FLOAT64_GRADIENT = 1e-12
CONVOLUTION = 1e-5
"""A convolution over time sums in another order than a leak, in float32."""


def cubic(distance: Tensor, gradient: Tensor, spikes: Tensor) -> Tensor:
    return gradient * (1 + spikes) / (1 + distance.abs() ** 3)


MAKERS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "atan": lambda: snn.surrogate.atan(alpha=1.5),
    "fast_sigmoid": lambda: snn.surrogate.fast_sigmoid(slope=5),
    "sigmoid": lambda: snn.surrogate.sigmoid(slope=5),
    "triangular": lambda: snn.surrogate.triangular(threshold=0.75),
    "spike_rate_escape": lambda: snn.surrogate.spike_rate_escape(beta=0.5, slope=3),
    "straight_through_estimator": snn.surrogate.straight_through_estimator,
    "heaviside": snn.surrogate.heaviside,
    "SFS": lambda: snn.surrogate.SFS(slope=4, B=-0.25),
    "SSO": lambda: snn.surrogate.SSO(mean=0.1, variance=0.3),
    "custom_surrogate": lambda: snn.surrogate.custom_surrogate(cubic),
    "autograd function": lambda: Exact.apply,
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_every_spike_function_has_its_derivative(
    maker: Callable[[], Callable[..., Tensor]],
) -> None:
    spike = maker()
    found = surrogate_of(spike)
    assert found is not None
    distances = torch.linspace(-3, 3, 41, dtype=torch.float64)
    ours, theirs = distances.clone().requires_grad_(), distances.clone().requires_grad_()

    torch.manual_seed(3)
    torch.autograd.backward((spike(theirs) * 2).sum())
    torch.manual_seed(3)
    torch.autograd.backward((fire(ours, found, strict=True) * 2).sum())

    assert torch.equal(fire(ours, found, strict=True).double(), spike(theirs).double())
    assert ours.grad is not None
    assert theirs.grad is not None
    assert_close({"": ours.grad}, {"": theirs.grad}, FLOAT64_GRADIENT)


def test_a_disabled_surrogate_has_no_gradient() -> None:
    neuron = snn.Leaky(0.9, surrogate_disable=True)

    assert surrogate_of(neuron.spike_grad) == Surrogate("none")
    assert FRONTEND.covers(neuron)


def test_equal_custom_surrogates_are_equal() -> None:
    first, second = (surrogate_of(snn.surrogate.custom_surrogate(cubic)) for _ in range(2))

    assert first == second
    assert str(first) == "cubic()"


@pytest.mark.parametrize("beta", [0.5, torch.linspace(0.1, 0.8, WIDTH)], ids=["scalar", "channels"])
@pytest.mark.parametrize("output", [True, False])
def test_a_state_leaky_is_a_leak_up_to_rounding(beta: float | Tensor, output: bool) -> None:
    library = snn.StateLeaky(beta, WIDTH, output=output, learn_beta=True)
    inputs = currents()

    expected = library(inputs)
    found = lowered(library, EagerLowering())(inputs)
    spikes, membrane = found if output else (None, found)
    expected_membrane = expected[1] if output else expected

    assert (membrane - expected_membrane).abs().max() < CONVOLUTION
    if spikes is not None:
        near = (expected_membrane - 1).abs() < CONVOLUTION
        assert_fires(spikes.detach())
        assert torch.equal(spikes[~near], expected[0][~near])


def test_a_state_leaky_has_its_gradients_and_squares_graded_spikes() -> None:
    library = snn.StateLeaky(
        0.5, WIDTH, learn_beta=True, learn_graded_spikes_factor=True, graded_spikes_factor=0.7
    )
    ours = copy.deepcopy(library)
    inputs = currents()

    library(inputs)[0].sum().backward()
    lowered(ours, EagerLowering())(inputs)[0].sum().backward()

    names = dict(library.named_parameters())
    assert {"tau", "graded_spikes_factor"} <= names.keys()
    assert_close(
        {name: value.grad for name, value in ours.named_parameters() if value.grad is not None},
        {name: value.grad for name, value in names.items() if value.grad is not None},
        FLOAT32_GRADIENT,
    )


class Overriding(snn.Leaky):  # type: ignore[misc]
    def fire(self, mem: Tensor) -> Tensor:
        spikes: Tensor = super().fire(mem)
        return spikes * 2


class Named(snn.Leaky):  # type: ignore[misc]
    """A subclass that only has another constructor."""

    def __init__(self) -> None:
        super().__init__(0.9)


REFUSED = {
    "snnTorch's Alpha is not covered; covered are Leaky, Lapicque,": lambda: snn.Alpha(0.9, 0.8),
    "snnTorch's DeltaLeaky is not covered": lambda: snn.DeltaLeaky(0.9, 1.0),
    "snnTorch's LeakyParallel is not covered": lambda: snn.LeakyParallel(4, 4),
    "set state_quant=False": lambda: snn.Leaky(0.9, state_quant=torch.round),
    "spike_grad=.*<lambda>, whose gradient": lambda: snn.Leaky(0.9, spike_grad=lambda x: x),
    "spike_grad=LSO": lambda: snn.Leaky(0.9, spike_grad=snn.surrogate.LSO()),
    "set kernel_truncation_steps=None": lambda: snn.StateLeaky(0.9, 4, kernel_truncation_steps=3),
    "Overriding overrides fire of Leaky": lambda: Overriding(0.9),
}


@pytest.mark.parametrize(("message", "make"), REFUSED.items(), ids=REFUSED)
def test_what_is_not_covered_is_named(message: str, make: Callable[[], torch.nn.Module]) -> None:
    neuron = make()

    assert not FRONTEND.covers(neuron)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(FRONTEND.refusal(neuron))


def test_inhibition_is_refused() -> None:
    with pytest.warns(UserWarning, match="unstable"):
        neuron = snn.Leaky(0.9, inhibition=True)

    assert not FRONTEND.covers(neuron)
    assert "set inhibition=False" in str(FRONTEND.refusal(neuron))


def test_a_subclass_with_its_own_constructor_and_other_layers_are_not_refused() -> None:
    assert FRONTEND.covers(Named())
    recurrent = snn.RLeaky(0.9, all_to_all=False).recurrent
    assert not FRONTEND.covers(recurrent)
    assert FRONTEND.refusal(recurrent) is None
    assert FRONTEND.stateless(recurrent) is None


def test_half_precision_is_refused() -> None:
    with pytest.raises(CaptureError, match="capture in float32"):
        lowered(snn.Leaky(0.9), EagerLowering())(torch.zeros(BATCH, WIDTH).half())

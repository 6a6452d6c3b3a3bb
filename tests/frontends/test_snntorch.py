# pyright: basic
"""The snnTorch frontend computes what snnTorch computes, bit for bit, spikes and states."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snncompile.errors import CaptureError
from snncompile.frontends.snntorch import FRONTEND
from snncompile.frontends.snntorch_surrogates import surrogate_of
from snncompile.ir.surrogates import Surrogate, fire
from tests.frontends.eager import EagerLowering
from tests.frontends.snntorch_cases import (
    ALL_TO_ALL,
    BATCH,
    OPTIONS,
    WIDTH,
    Make,
    Neuron,
    assert_close,
    assert_fires,
    assert_same,
    currents,
    explicit,
    gradients,
    lowered,
    made,
    snn,
)
from tests.reference import neurons_snntorch as reference

FLOAT32_GRADIENT = 1e-5
"""Relative to the largest gradient: other orders of float32 sums over time, batch and width."""
FLOAT64_GRADIENT = 1e-12
LIBRARY_FLOAT32 = 1e-6
"""snnTorch's spikes and resets are float32: so are their gradients in its float64 models."""
MEMBRANE = 1e-12
"""The reference loops sum in another order."""
CONVOLUTION = 1e-5
"""A convolution over time sums in another order than a leak, in float32."""


class Exact(torch.autograd.Function):
    """A spike function that stays in the membrane's dtype, as snnTorch's own do not."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (distance,) = ctx.saved_tensors
        return gradients[0].div((1 + 2 * distance.abs()) ** 2)


def cubic(distance: Tensor, gradient: Tensor, spikes: Tensor) -> Tensor:
    return gradient * (1 + spikes) / (1 + distance.abs() ** 3)


@pytest.mark.parametrize("make", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spikes_and_states_are_bit_equal(make: Make, dtype: torch.dtype) -> None:
    library = made(make, dtype)
    ours = copy.deepcopy(library)

    expected = explicit(library, library, currents(dtype))
    found = explicit(lowered(ours, EagerLowering()), ours, currents(dtype))

    assert_same(found, expected)


@pytest.mark.parametrize("make", ALL_TO_ALL.values(), ids=ALL_TO_ALL)
def test_all_to_all_feedback_is_bit_equal(make: Make) -> None:
    library = made(make)
    ours = copy.deepcopy(library)

    expected = explicit(library, library, currents())
    found = explicit(lowered(ours, EagerLowering()), ours, currents())

    assert_same(found, expected)


@pytest.mark.parametrize("kind", [snn.RLeaky, snn.RSynaptic])
def test_convolutional_feedback_is_bit_equal(kind: Callable[..., Any]) -> None:
    decays = (0.9,) if kind is snn.RLeaky else (0.4, 0.9)
    library = made(lambda: kind(*decays, conv2d_channels=3, kernel_size=3))
    ours = copy.deepcopy(library)

    expected = explicit(library, library, currents(shape=(3, 4, 4)))
    found = explicit(lowered(ours, EagerLowering()), ours, currents(shape=(3, 4, 4)))

    assert_same(found, expected)


@pytest.mark.parametrize(
    "make", [*OPTIONS.values(), *ALL_TO_ALL.values()], ids=[*OPTIONS, *ALL_TO_ALL]
)
def test_gradients_agree_in_float32(make: Make) -> None:
    library = made(make)
    ours = copy.deepcopy(library)

    expected = gradients(library, library, currents())
    found = gradients(lowered(ours, EagerLowering()), ours, currents())

    assert_close(found, expected, FLOAT32_GRADIENT)


@pytest.mark.parametrize(
    "make", [*OPTIONS.values(), *ALL_TO_ALL.values()], ids=[*OPTIONS, *ALL_TO_ALL]
)
def test_gradients_agree_in_float64_where_spikes_are_float64(make: Make) -> None:
    library = made(make, torch.float64)
    library.spike_grad = Exact.apply
    ours = copy.deepcopy(library)

    expected = gradients(library, library, currents(torch.float64))
    found = gradients(lowered(ours, EagerLowering()), ours, currents(torch.float64))

    assert_close(found, expected, FLOAT64_GRADIENT)


@pytest.mark.parametrize("make", OPTIONS.values(), ids=OPTIONS)
def test_gradients_agree_in_float64_as_far_as_the_library_has_them(make: Make) -> None:
    library = made(make, torch.float64)
    ours = copy.deepcopy(library)

    expected = gradients(library, library, currents(torch.float64))
    found = gradients(lowered(ours, EagerLowering()), ours, currents(torch.float64))

    assert_close(found, expected, LIBRARY_FLOAT32)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("kind", ["subtract", "zero", "none"])
def test_the_equations_hold(kind: str, at_once: bool) -> None:
    reset = reference.Reset(kind, 0.75, at_once)
    options = {"reset_mechanism": kind, "threshold": 0.75, "reset_delay": not at_once}
    plain: dict[Any, Callable[[list[float]], list[Any]]] = {
        snn.Leaky(0.875, **options): lambda x: reference.leaky(x, 0.875, reset),
        snn.Synaptic(0.25, 0.5, **options): lambda x: reference.synaptic(x, 0.25, 0.5, reset),
        snn.RLeaky(0.875, V=-0.5, all_to_all=False, **options): (
            lambda x: reference.recurrent_leaky(x, 0.875, -0.5, reset)
        ),
    }

    for neuron, loop in plain.items():
        _assert_follows(neuron, loop)


@pytest.mark.parametrize("kind", ["subtract", "zero", "none"])
def test_the_equations_hold_where_the_reset_is_always_delayed(kind: str) -> None:
    reset = reference.Reset(kind, 0.75)
    options = {"reset_mechanism": kind, "threshold": 0.75}

    _assert_follows(
        snn.RSynaptic(0.25, 0.5, V=-0.5, all_to_all=False, **options),
        lambda x: reference.synaptic(x, 0.25, 0.5, reset, feedback=-0.5),
    )
    _assert_follows(
        snn.Lapicque(R=4.0, C=0.5, **options), lambda x: reference.lapicque(x, 4.0, 0.5, reset)
    )


def _assert_follows(neuron: Neuron, loop: Callable[[list[float]], list[Any]]) -> None:
    inputs = currents(torch.float64)
    call = lowered(neuron.double(), EagerLowering())
    found = torch.stack(
        [
            torch.stack([v.detach().double() for v in step])
            for step in explicit(call, neuron, inputs)
        ]
    )
    traces = inputs.flatten(1).T.tolist()
    expected = torch.tensor([loop(trace) for trace in traces], dtype=torch.float64)
    expected = expected.permute(1, 2, 0).reshape(found.shape)
    assert_fires(expected[:, 0])
    assert torch.equal(found[:, 0], expected[:, 0])
    assert (found - expected).abs().max() < MEMBRANE


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
    def fire(self, mem: Tensor) -> Any:  # noqa: ANN401
        return super().fire(mem) * 2


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

# pyright: basic
"""The snnTorch frontend computes what snnTorch computes, bit for bit, spikes and states."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.frontends.eager import EagerLowering
from tests.frontends.snntorch_cases import (
    ALL_TO_ALL,
    OPTIONS,
    Exact,
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

"""Every neuron of the IR has a kernel, which computes what its function says."""

# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor

from snncompile.ir import neurons
from snncompile.ir.surrogates import DERIVATIVES, Surrogate
from tests.kernels.comparison import assert_agree, operands

ATAN = Surrogate("atan", (2.0,))
BASE: dict[str, Any] = {"charge": neurons.Decay(0.5), "threshold": 1.0, "reset": neurons.Subtract()}
FIRING: dict[str, Any] = {**BASE, "surrogate": ATAN}

CHARGES = [
    neurons.Integrate(), neurons.Decay(0.7), neurons.Relax(2.5, 0.1), neurons.Leak(3.0),
    neurons.RelaxRate(0.4), neurons.LeakRate(0.3, 0.2), neurons.Euler(0.1), neurons.EulerBox(0.1),
    neurons.Blend(0.9, 0.8), neurons.Charged(),
]  # fmt: skip
RESETS = [
    neurons.Subtract(), neurons.Subtract(detach=True), neurons.Hard(), neurons.Hard(-0.25),
    neurons.Hard(0.25, detach=True), neurons.Keep(),
]  # fmt: skip
PARAMETERS = {
    "fast_sigmoid": (25.0,), "rectangle": (1.0,), "triangle": (1.0,), "q_pseudo_spike": (2.0,),
    "piecewise_leaky_relu": (1.0, 0.01), "squarewave_fourier_series": (4.0, 8.0), "s2nn": (4.0, 1.0),
    "leaky_k_relu": (0.0, 1.0), "fake_numerical_gradient": (0.3,), "log_tailed_relu": (0.1,),
    "sign": (0.3,), "spike_rate_escape": (1.0, 25.0), "sparse_fast_sigmoid": (25.0, 0.0),
    "fired": (), "straight_through": (), "none": (),
}  # fmt: skip


def number(value: float, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A learnable setting around a value."""
    spread = torch.rand(shape, dtype=dtype) * 0.2
    return (value + spread).requires_grad_()


def fires(spikes: Tensor) -> bool:
    return 0.02 < float((spikes != 0).double().mean()) < 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", RESETS, ids=str)
def test_lif(reset: neurons.Reset, strict: bool, dtype: torch.dtype) -> None:
    settings = {**FIRING, "reset": reset, "strict": strict}

    found = assert_agree(neurons.lif, operands(1, 9, 3, 7, dtype=dtype), settings, (0, 1))

    assert fires(found.values[0])


@pytest.mark.parametrize("charge", CHARGES, ids=str)
def test_lif_charges(charge: neurons.Charge) -> None:
    settings = {**FIRING, "charge": charge, "threshold": 0.25}

    found = assert_agree(neurons.lif, operands(1, 9, 3, 7, dtype=torch.float32), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("reset", [neurons.Subtract(), neurons.Hard()], ids=str)
def test_lif_that_cuts_the_gradient_through_time(reset: neurons.Reset) -> None:
    settings = {**FIRING, "reset": reset, "detach_membrane": True}

    found = assert_agree(neurons.lif, operands(1, 9, 3, 7), settings)

    assert fires(found.values[0])
    assert found.gradients[1] is None


@pytest.mark.parametrize("name", sorted(DERIVATIVES))
def test_surrogates(name: str) -> None:
    settings = {**FIRING, "surrogate": Surrogate(name, PARAMETERS.get(name, (2.0,)))}

    found = assert_agree(neurons.lif, operands(1, 6, 40), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("name", ["atan", "sigmoid", "erf", "tanh", "squarewave_fourier_series"])
def test_surrogates_in_single_precision(name: str) -> None:
    settings = {**FIRING, "surrogate": Surrogate(name, PARAMETERS.get(name, (2.0,)))}

    found = assert_agree(neurons.lif, operands(1, 6, 40, dtype=torch.float32), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (3, 5, 7)], ids=str)
@pytest.mark.parametrize("reset", [neurons.Subtract(), neurons.Hard()], ids=str)
def test_learnable_settings_of_lif(shape: tuple[int, ...], reset: neurons.Reset) -> None:
    charge = neurons.Relax(number(2.0, *shape))
    settings = {**FIRING, "charge": charge, "threshold": number(0.5, *shape), "reset": reset}

    found = assert_agree(neurons.lif, operands(1, 9, 3, 5, 7), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("scale_reset", [False, True])
@pytest.mark.parametrize("reset", [neurons.Subtract(), neurons.Hard(detach=True)], ids=str)
def test_rectified_lif(reset: neurons.Reset, scale_reset: bool) -> None:
    settings = {**FIRING, "reset": reset, "slope": number(1.1), "scale_reset": scale_reset}

    found = assert_agree(neurons.rectified_lif, operands(1, 9, 3, 7), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset", [neurons.Subtract(), neurons.Hard()], ids=str)
def test_integer_lif(reset: neurons.Reset, dtype: torch.dtype) -> None:
    settings = {**BASE, "reset": reset, "threshold": number(0.5, dtype=dtype), "levels": 4.0}

    found = assert_agree(neurons.integer_lif, operands(1, 9, 3, 7, dtype=dtype), settings)

    assert fires(found.values[0])
    assert int(found.values[0].max()) > 3


@pytest.mark.parametrize("now", ["subtract", "zero", "none"])
@pytest.mark.parametrize("reset", ["subtract", "zero_state", "zero", "zero_subtract", "none"])
def test_delayed_lif(reset: str, now: str) -> None:
    settings = {**FIRING, "reset": reset, "reset_now": now, "gain": number(1.0)}

    found = assert_agree(neurons.delayed_lif, operands(1, 9, 3, 7), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("reset", [neurons.Subtract(), neurons.Hard()], ids=str)
def test_adaptive_lif(reset: neurons.Reset, detach: bool) -> None:
    settings = {**FIRING, "reset": reset, "rate": number(0.1), "jump": 0.3, "detach": detach}

    found = assert_agree(neurons.adaptive_lif, operands(2, 9, 3, 7), settings, (0, 2))

    assert fires(found.values[0])


@pytest.mark.parametrize("charge", [neurons.Decay(0.5), neurons.Euler(0.1)], ids=str)
def test_integrator(charge: neurons.Charge) -> None:
    assert_agree(neurons.integrator, operands(1, 9, 3, 7), {"charge": charge}, (0, 1))


@pytest.mark.parametrize("order", ["decay_then_add", "add_then_decay", "delay"])
def test_synaptic_current(order: str) -> None:
    settings = {"decay": number(0.6), "order": order}

    assert_agree(neurons.synaptic_current, operands(1, 9, 3, 7), settings)


@pytest.mark.parametrize("charge", [neurons.Decay(0.5), neurons.Relax(2.0)], ids=str)
def test_accumulate(charge: neurons.Charge) -> None:
    found = assert_agree(neurons.accumulate, operands(1, 9, 3, 7), {"charge": charge})

    assert found.gradients[1] is None


@pytest.mark.parametrize("of", ["lif", "integer_lif", "delayed_lif"])
def test_accumulating(of: str) -> None:
    chosen: dict[str, dict[str, Any]] = {
        "lif": {"neuron": neurons.lif, "surrogate": ATAN, "strict": True},
        "integer_lif": {"neuron": neurons.integer_lif, "levels": 4.0},
        "delayed_lif": {"neuron": neurons.delayed_lif, "surrogate": ATAN, "reset": "subtract"},
    }
    settings = {**BASE, "charge": neurons.Decay(number(0.4)), **chosen[of]}

    found = assert_agree(neurons.accumulating, operands(1, 9, 3, 7), settings, (0, 1))

    assert fires(found.values[0])


@pytest.mark.parametrize("levels", [None, 4.0], ids=str)
@pytest.mark.parametrize("detach", [False, True])
def test_multi_precision(levels: float | None, detach: bool) -> None:
    settings = {"charge": neurons.Decay(0.5), "threshold": number(0.5), "levels": levels}

    given = operands(1, 9, 3, 7)
    found = assert_agree(neurons.multi_precision, given, {**settings, "detach_membrane": detach})

    assert fires(found.values[0])


@pytest.mark.parametrize("levels", [None, 4.0], ids=str)
def test_stateless_multi_precision(levels: float | None) -> None:
    settings = {"threshold": number(0.5), "levels": levels}

    found = assert_agree(neurons.stateless_multi_precision, operands(0, 9, 3, 7), settings)

    assert fires(found.values[0])


@pytest.mark.parametrize("rule", ["v1", "v2"])
def test_single_spike(rule: str) -> None:
    current, membrane, *_ = operands(1, 9, 3, 7)
    unfired = torch.zeros(2, 3, 7, dtype=torch.float64)
    settings = {
        "charge": neurons.Decay(0.5), "threshold": number(0.8), "surrogate": ATAN, "rule": rule,
    }  # fmt: skip

    found = assert_agree(neurons.single_spike, [current, membrane, *unfired], settings)

    assert fires(found.values[0])
    assert float(found.values[0].sum(0).max()) == 1.0


def test_every_elementwise_neuron_is_compared_here() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}

    assert {neuron.__name__ for neuron in neurons.ELEMENTWISE} <= tested

# pyright: basic
"""The Norse frontend follows Norse's equations, written once more as plain loops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.frontends.norse_cases import (
    ADAPTIVE,
    FIRING,
    INTEGRATING,
    SYNAPTIC,
    TIME,
    Make,
    Neuron,
    assert_fires,
    currents,
    lowered,
    run,
    snn,
)
from tests.reference import neurons_norse as reference

MEMBRANE = 1e-12
"""The reference loops sum in another order."""


def rates(c: reference.Constants, *names: str) -> dict[str, Tensor]:
    numbers = {"tau_mem_inv": c.m, "tau_syn_inv": c.s, "tau_adapt_inv": c.a, "v_leak": c.leak}
    numbers |= {"v_th": c.threshold, "v_reset": c.reset, "beta": c.jump}
    return {name: torch.tensor(numbers[name]) for name in names}


C = reference.Constants()
EQUATIONS: dict[str, tuple[Make, Callable[[list[float]], list[tuple[float, ...]]]]] = {
    "lif": (
        lambda: snn.LIFCell(snn.LIFParameters(**rates(C, *SYNAPTIC)), dt=1),
        lambda x: reference.lif(x, C),
    ),
    "lif box": (
        lambda: snn.LIFBoxCell(snn.LIFBoxParameters(**rates(C, *FIRING)), dt=1),
        lambda x: reference.lif_box(x, C, subtract=False),
    ),
    "lif box subtract": (
        lambda: snn.LIFBoxCell(
            snn.LIFBoxParameters(**rates(C, *FIRING), reset_method=snn.reset_subtract), dt=1
        ),
        lambda x: reference.lif_box(x, C, subtract=True),
    ),
    "iaf": (
        lambda: snn.IAFCell(snn.IAFParameters(**rates(C, "v_th", "v_reset"))),
        lambda x: reference.iaf(x, C),
    ),
    "li": (
        lambda: snn.LICell(snn.LIParameters(**rates(C, *INTEGRATING)), dt=1),
        lambda x: reference.li(x, C),
    ),
    "lsnn": (
        lambda: snn.LSNNCell(snn.LSNNParameters(**rates(C, *ADAPTIVE)), dt=1),
        lambda x: reference.lsnn(x, C),
    ),
}


@pytest.mark.parametrize(("make", "loop"), EQUATIONS.values(), ids=EQUATIONS)
def test_the_equations_hold(
    make: Make, loop: Callable[[list[float]], list[tuple[float, ...]]]
) -> None:
    neuron = make()
    inputs = currents(neuron, torch.float64)

    outputs, states = run(lowered(neuron), neuron, inputs)

    found = torch.stack(
        [outputs, *(torch.stack(values) for values in zip(*states, strict=True))], 1
    )
    _assert_follows(neuron, found, [loop(trace) for trace in inputs.flatten(1).T.tolist()])


@pytest.mark.parametrize("kind", ["lif", "lsnn"])
def test_the_equations_with_feedback_hold(kind: str) -> None:
    weights = {"input_weights": torch.eye(1), "recurrent_weights": torch.tensor([[-0.5]])}
    options = {"dt": 1, "autapses": True, **weights}
    lif = kind == "lif"
    p = (
        snn.LIFParameters(**rates(C, *SYNAPTIC))
        if lif
        else snn.LSNNParameters(**rates(C, *ADAPTIVE))
    )
    neuron = (snn.LIFRecurrentCell if lif else snn.LSNNRecurrentCell)(1, 1, p, **options).double()
    neuron.input_weights, neuron.recurrent_weights = (w.double() for w in weights.values())
    inputs = currents(neuron, torch.float64).reshape(TIME, -1, 1)

    outputs, states = run(lowered(neuron), neuron, inputs)

    fields = [torch.stack([getattr(s, name) for s in states]) for name in states[0]._fields[1:]]
    loop = reference.lif if lif else reference.lsnn
    traces = inputs.flatten(1).T.tolist()
    _assert_follows(neuron, torch.stack([outputs, *fields], 1), [loop(x, C, -0.5) for x in traces])


def _assert_follows(neuron: Neuron, found: Tensor, expected: list[list[tuple[float, ...]]]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64).permute(1, 2, 0).reshape(found.shape)
    assert_fires(neuron, wanted[:, 0])
    assert (found - wanted).abs().max() < MEMBRANE

# pyright: basic
from collections.abc import Callable
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from snncompile.errors import ExportError
from snncompile.export import export_program
from snncompile.ir import neurons
from snncompile.ir.charges import (
    Blend,
    Decay,
    Euler,
    EulerBox,
    Integrate,
    Leak,
    LeakRate,
    Relax,
    RelaxRate,
)
from snncompile.ir.grids import Grid
from snncompile.ir.program import Program
from snncompile.ir.resets import Hard, Keep, Subtract
from snncompile.ir.surrogates import Surrogate, fire
from tests.export.runtimes import File
from tests.programs import Step

Neuron = Callable[..., tuple[Tensor, ...]]
Run = tuple[Tensor, list[Tensor]]
ATAN = Surrogate("atan", (2.0,))
STEPS, BATCH, WIDTH = 8, 4, 16
FIRES = {"threshold": 1.0, "surrogate": ATAN}


class Above(torch.autograd.Function):
    """A surrogate as users write it."""

    @staticmethod
    def forward(ctx: FunctionCtx, distance: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(distance)
        return distance.gt(0).float() if slope > 0 else distance

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


CHARGES = [
    Integrate(), Decay(0.5), Relax(2.0), Relax(2.0, 0.25), Leak(4.0, 0.5),
    RelaxRate(0.25, -0.5), LeakRate(0.5), Euler(0.25, 0.5),
    EulerBox(0.25), Blend(0.75, 0.5), Decay(0.9), Relax(1.7),
]  # fmt: skip

CASES: list[tuple[Neuron, dict[str, Any]]] = [
    *((neurons.lif, {"charge": charge, "reset": Subtract(), **FIRES}) for charge in CHARGES),
    *(
        (neurons.lif, {"charge": Decay(0.5), "reset": reset, **FIRES, "strict": strict})
        for reset in (Subtract(detach=True), Hard(), Hard(0.25, detach=True), Keep())
        for strict in (False, True)
    ),
    (neurons.lif, {"charge": Decay(0.5), "reset": Hard(), **FIRES, "detach_membrane": True}),
    (neurons.accumulate, {"charge": Decay(0.5)}),
    *(
        (neurons.accumulating, {"neuron": neurons.lif, "charge": charge, "reset": Subtract(), **FIRES})
        for charge in (Decay(0.5), Leak(4.0), Relax(2.0))
    ),
    (
        neurons.accumulating,
        {"neuron": neurons.delayed_lif, "charge": Decay(0.5), "reset": "subtract", **FIRES},
    ),
    (
        neurons.lif,
        {"charge": Decay(0.5), "reset": Hard(), "threshold": 1.0,
         "surrogate": Surrogate("function", (25.0,), Above)},
    ),
    *(
        (neurons.rectified_lif, {"charge": Decay(0.5), "slope": 1.5, "reset": reset, **FIRES,
                                 "scale_reset": scaled})
        for reset in (Subtract(), Hard(0.5))
        for scaled in (False, True)
    ),
    *(
        (neurons.integer_lif, {"charge": Decay(0.5), "threshold": 0.5, "reset": reset, "levels": 4.0})
        for reset in (Subtract(), Keep())
    ),
    *(
        (neurons.delayed_lif, {"charge": Decay(0.5), "reset": reset, **FIRES, "reset_now": now,
                               "gain": gain})
        for reset, now, gain in [
            ("subtract", "none", 1.0), ("zero_state", "none", 2.0), ("zero", "none", 1.0),
            ("zero_subtract", "none", 1.0), ("none", "none", 1.0), ("subtract", "subtract", 0.5),
            ("zero", "zero", 1.0),
        ]
    ),
    *(
        (neurons.adaptive_lif, {"charge": Euler(0.5), "rate": 0.25, "jump": 0.5,
                                "reset": reset, **FIRES, "detach": detach})
        for reset, detach in [(Subtract(), False), (Hard(), True)]
    ),
    (neurons.integrator, {"charge": Decay(0.9)}),
    *(
        (neurons.synaptic_current, {"decay": 0.75, "order": order})
        for order in ("decay_then_add", "add_then_decay", "delay")
    ),
    *(
        (neurons.reversible_lif, {"charge": Relax(2.0), "reset": reset, **FIRES, **coupling})
        for reset in (Hard(), Subtract())
        for coupling in ({"grid": Grid(8, 1.0)}, {"alpha": 0.5, "beta": 0.5, "anchors": 2})
    ),
    *(
        (neurons.multi_precision, {"charge": Decay(0.5), "threshold": 0.5, "levels": levels})
        for levels in (None, 15.0, 3.0)
    ),
    *(
        (neurons.stateless_multi_precision, {"threshold": 0.5, "levels": levels})
        for levels in (None, 15.0)
    ),
    *(
        (neurons.single_spike, {"charge": Decay(0.5), **FIRES, "rule": rule, "strict": strict})
        for rule, strict in (("v1", True), ("v2", False))
    ),
]  # fmt: skip


def program_of(function: Neuron, settings: dict[str, Any]) -> tuple[Program, int]:
    """One neuron, driven by the input."""
    step = Step(nn.Module())
    counts = {
        neurons.adaptive_lif: 2,
        neurons.stateless_multi_precision: 0,
        neurons.single_spike: 3,
    }
    count = counts.get(function, 1)
    x = step.input("x", WIDTH)
    held = [step.state(f"state{i}", WIDTH) for i in range(count)]
    node = step.call(function, x, *held, **settings)
    node.meta["module"] = "neuron"
    parts = [step.call(getitem, node, i) for i in range(count + 1)]
    step.next = {f"state{i}": part for i, part in enumerate(parts[1:])}
    return step.program(parts[0]), count


def definition(function: Neuron, settings: dict[str, Any], x: Tensor, held: list[Tensor]) -> Run:
    """The Python definition, over all steps."""
    outputs = []
    for current in x:
        made, *held = function(current, *held, **settings)
        outputs.append(made)
    return torch.stack(outputs), held


@pytest.mark.parametrize(
    ("function", "settings"),
    CASES,
    ids=[f"{function.__name__}{i}" for i, (function, _) in enumerate(CASES)],
)
def test_a_neuron_computes_the_bits_of_its_definition_in_both_forms(
    function: Neuron, settings: dict[str, Any], tmp_path: Path
) -> None:
    program, count = program_of(function, settings)
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-8, 24, (STEPS, BATCH, WIDTH), generator=generator) / 8.0
    held = [torch.zeros(BATCH, WIDTH) for _ in range(count)]

    for form in ("step", "sequence"):
        export_program(program, tmp_path / f"{form}.onnx", form=form)

    wanted, final = definition(function, settings, x, held)
    whole = File(tmp_path / "sequence.onnx")(x, *held)
    step, state = File(tmp_path / "step.onnx"), [value.numpy() for value in held]
    for t in range(STEPS):
        spikes, *state = step(x[t], *(torch.from_numpy(value) for value in state))
        assert np.array_equal(spikes, wanted[t].numpy())
    assert np.array_equal(whole[0], wanted.numpy())
    for values in (whole[1:], state):
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(values, final, strict=True))
    if function in neurons.SPIKING:
        assert 0 < (wanted != 0).float().mean() < 1


def test_every_neuron_of_the_ir_is_covered() -> None:
    assert {function for function, _ in CASES} == set(neurons.NEURONS)


@pytest.mark.parametrize("strict", [False, True])
def test_membranes_on_the_threshold_fire_unless_the_neuron_is_strict(
    strict: bool, tmp_path: Path
) -> None:
    settings = {"charge": Decay(0.5), "reset": Subtract(), **FIRES, "strict": strict}
    program, _ = program_of(neurons.lif, settings)

    export_program(program, tmp_path / "net.onnx")

    on_threshold = torch.ones(1, 1, WIDTH)
    got = File(tmp_path / "net.onnx")(on_threshold, torch.zeros(1, WIDTH))[0]
    assert np.all(got == (0.0 if strict else 1.0))


def test_configurations_are_functions_and_numbers_are_attributes(tmp_path: Path) -> None:
    step = Step(nn.Module())
    x = step.input("x", WIDTH)
    held = [step.state(f"lif{i}.membrane", WIDTH) for i in range(4)]
    value = step.lif(x, held[0], "lif0")
    value = step.lif(value, held[1], "lif1", threshold=0.5, charge=Decay(0.25))
    value = step.lif(value, held[2], "lif2", reset=Hard())
    value = step.lif(value, held[3], "lif3", reset=Subtract(detach=True))

    report = export_program(step.program(value), tmp_path / "net.onnx", form="step")

    calls = [n for n in onnx.load(tmp_path / "net.onnx").graph.node if n.domain == "snn"]
    numbers = [{a.name: a.f for a in call.attribute} for call in calls]
    assert report.functions == ("lif_decay_subtract", "lif_decay_hard")
    assert numbers[0] == {"decay": 0.5, "threshold": 1.0}
    assert numbers[1] == {"decay": 0.25, "threshold": 0.5}
    assert calls[3].op_type == "lif_decay_subtract"


def test_learnable_settings_are_inputs_of_the_function(tmp_path: Path) -> None:
    root = nn.Module()
    root.decay = nn.Parameter(torch.linspace(0.25, 0.75, WIDTH))
    root.threshold = nn.Parameter(torch.tensor(1.5))
    step = Step(root)
    x, membrane = step.input("x", WIDTH), step.state("lif.membrane", WIDTH)
    decay: Any = step.graph.get_attr("decay")
    settings = {
        "charge": Decay(decay),
        "threshold": step.graph.get_attr("threshold"),
    }
    program = step.program(step.lif(x, membrane, "lif", **settings))

    export_program(program, tmp_path / "net.onnx")

    function = onnx.load(tmp_path / "net.onnx").functions[0]
    held, seen = torch.zeros(BATCH, WIDTH), torch.rand(STEPS, BATCH, WIDTH) * 2
    known = {
        "charge": Decay(root.decay.detach()), "threshold": root.threshold.detach(),
        "reset": Subtract(), "surrogate": ATAN,
    }  # fmt: skip
    wanted, _ = definition(neurons.lif, known, seen, [held])
    got = File(tmp_path / "net.onnx")(seen, held)[0]
    assert list(function.input) == ["current", "membrane", "decay", "threshold"]
    assert np.array_equal(got, wanted.numpy())
    assert 0 < got.mean() < 1


def test_a_handwritten_neuron_is_exported_with_the_users_surrogate(tmp_path: Path) -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", WIDTH), step.state("membrane", WIDTH)
    charged = step.call(torch.add, step.call(torch.mul, membrane, 0.5), x)
    spikes = step.call(Above.apply, step.call(torch.sub, charged, 1.0), 25.0)
    bare = step.call(fire, charged, ATAN, strict=True)
    step.next["membrane"] = step.call(torch.sub, charged, spikes)
    program = step.program(spikes, bare)

    report = export_program(program, tmp_path / "net.onnx")

    seen, held = torch.rand(STEPS, BATCH, WIDTH), torch.zeros(BATCH, WIDTH)
    state, wanted = held, []
    for current in seen:
        charged = state * 0.5 + current
        wanted.append((charged - 1.0 > 0).float())
        state = charged - wanted[-1]
    got = File(tmp_path / "net.onnx")(seen, held)
    assert set(report.functions) == {"above", "fire_strict"}
    assert np.array_equal(got[0], torch.stack(wanted).numpy())
    assert 0 < got[0].mean() < 1


class Branching(torch.autograd.Function):
    """A surrogate that decides by the values of its tensor."""

    @staticmethod
    def forward(ctx: FunctionCtx, distance: Tensor) -> Tensor:
        return distance if distance.sum() > 0 else -distance

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        return grads[0]


def test_a_surrogate_that_branches_on_its_tensor_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "charge": Decay(0.5), "reset": Subtract(), "threshold": 1.0,
        "surrogate": Surrogate("function", (), Branching),
    }  # fmt: skip
    program, _ = program_of(neurons.integrator, {"charge": Decay(0.5)})
    node = next(iter(program.neurons()))
    node.target, node.kwargs = neurons.lif, settings

    with pytest.raises(ExportError, match=r"lif of neuron.*without branches on tensors"):
        export_program(program, tmp_path / "net.onnx")

    assert list(tmp_path.iterdir()) == []

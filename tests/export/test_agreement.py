# pyright: basic
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from snncompile.errors import ExportError, InputError
from snncompile.export import export_program, synapses
from snncompile.export.exactness import exactness
from snncompile.export.graph import GraphWriter
from snncompile.export.grids import Grid, grid_of
from snncompile.export.report import Form
from snncompile.ir.program import Program
from tests import programs
from tests.export.runtimes import spikes

Make = Callable[[], Program]


def disturbed(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Have the exporter write other weights than torch uses."""
    plain = synapses.stored

    def stored(graph: GraphWriter, weight: synapses.Weight, **layout: bool) -> str:
        changed = synapses.Weight(weight.name, weight.data * factor)
        return plain(graph, changed, **layout)

    monkeypatch.setattr(synapses, "stored", stored)


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("make", [programs.feedforward, programs.recurrent])
def test_spikes_on_the_threshold_that_rounding_moves_are_counted(
    make: Make, form: Form, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = make()
    width = int(program.placeholders()[0].meta["val"].shape[1])
    disturbed(monkeypatch, 1 - 2**-20)

    report = export_program(
        program,
        tmp_path / "net.onnx",
        form=form,
        check=(spikes(20, 64, width),),
    )

    assert 0 < report.agreement.moved < report.agreement.spikes / 10
    assert report.agreement.steps == 20
    assert (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("make", [programs.feedforward, programs.recurrent])
def test_other_numbers_than_torchs_are_an_error_and_leave_no_file(
    make: Make, form: Form, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disturbed(monkeypatch, 1.01)

    with pytest.raises(ExportError, match=r"reaches .*lif.* at step 0 differs by"):
        export_program(make(), tmp_path / "net.onnx", form=form)

    assert list(tmp_path.iterdir()) == []


def test_a_readout_that_differs_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = programs.Step(nn.ModuleDict({"head": nn.Linear(4, 3)}))
    program = step.program(step.module("head", step.input("x", 4)))
    disturbed(monkeypatch, 1.01)

    with pytest.raises(ExportError, match="output 'out0' differs by"):
        export_program(program, tmp_path / "net.onnx")

    assert list(tmp_path.iterdir()) == []


def test_the_comparison_runs_on_the_inputs_it_is_given(tmp_path: Path) -> None:
    program = programs.feedforward()

    report = export_program(program, tmp_path / "net.onnx", check=(spikes(11, 3, 8),))

    assert report.agreement.steps == 11
    assert report.agreement.spikes == 11 * 3 * 20
    assert report.agreement.moved == 0
    assert report.agreement.difference == 0.0


def of_layer(layer: nn.Module, *shape: int) -> Program:
    step = programs.Step(nn.ModuleDict({"layer": layer.eval()}))
    return step.program(step.module("layer", step.input("x", *shape)))


def test_dyadic_weights_on_integers_are_exact() -> None:
    assert exactness(programs.feedforward()) == ("exact", "")
    assert exactness(programs.recurrent()) == ("exact", "")


def test_weights_off_the_grid_are_not_exact_and_the_layer_is_named() -> None:
    torch.manual_seed(0)

    known, reason = exactness(of_layer(nn.Linear(4, 4), 4))

    assert known == "tolerance"
    assert (
        reason == "%layer (module layer) adds up products, and its weights are not on a dyadic grid"
    )


def test_sums_beyond_24_bits_are_not_exact() -> None:
    layer = nn.Linear(4, 4)
    nn.init.constant_(layer.weight, 2.0**12 + 2.0**-6)
    nn.init.zeros_(layer.bias)

    known, reason = exactness(of_layer(layer, 4))

    assert known == "tolerance"
    assert "more than 24 bits" in reason


@pytest.mark.parametrize(
    ("layer", "shape", "known"),
    [
        (nn.AvgPool2d(2), (2, 4, 4), "exact"),
        (nn.AvgPool2d(3), (2, 6, 6), "tolerance"),
        (nn.MaxPool2d(2), (2, 4, 4), "exact"),
        (nn.Sigmoid(), (4,), "tolerance"),
        (nn.BatchNorm2d(2), (2, 4, 4), "tolerance"),
        (nn.BatchNorm2d(2, eps=0.0), (2, 4, 4), "exact"),
    ],
)
def test_the_class_follows_what_the_layer_adds_up(
    layer: nn.Module, shape: tuple[int, ...], known: str
) -> None:
    assert exactness(of_layer(layer, *shape))[0] == known


def test_a_layer_behind_membranes_is_not_exact() -> None:
    step = programs.Step(programs.dyadic_(nn.ModuleDict({"head": nn.Linear(4, 2)}), 4.0))
    x, membrane = step.input("x", 4), step.state("lif.membrane", 4)
    step.lif(x, membrane, "lif")
    head = step.module("head", step.next["lif_membrane"])

    known, reason = exactness(step.program(head))

    assert known == "tolerance"
    assert "its inputs are not on a dyadic grid" in reason


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ([0.0, 3.0, -5.0], Grid(0, 5.0)),
        ([0.25, 1.5], Grid(2, 1.5)),
        ([0.1], None),
    ],
)
def test_a_grid_is_the_coarsest_that_holds_all_values(
    values: list[float], grid: Grid | None
) -> None:
    assert grid_of(torch.tensor(values, dtype=torch.float64)) == grid


def training(program: Program) -> Program:
    program.root.train()
    return program


def unsupported() -> Program:
    step = programs.Step(nn.ModuleDict())
    return step.program(step.call(torch.linalg.inv, step.input("x", 3, 3)))


def doubled() -> Program:
    step = programs.Step(nn.ModuleDict())
    return step.program(step.graph.call_method("to", (step.input("x", 3), torch.float64)))


def timeless() -> Program:
    step = programs.Step(nn.ModuleDict())
    return step.program(step.call(torch.neg, step.input("x", 3, kind="static")))


@pytest.mark.parametrize(
    ("make", "settings", "error", "message"),
    [
        (
            lambda: training(programs.convolutional()),
            {},
            ExportError,
            r"module norm.*call eval\(\)",
        ),
        (unsupported, {}, ExportError, "%linalg_inv.*has no ONNX recipe; there are ones for abs"),
        (doubled, {}, ExportError, r"float64.*call float\(\) on the model"),
        (timeless, {}, ExportError, "number of steps is not fixed"),
        (programs.feedforward, {"opset": 16}, InputError, "opset is 16; use 17 to 23"),
        (programs.feedforward, {"opset": 24}, InputError, "opset is 24; use 17 to 23"),
        (
            programs.feedforward,
            {"form": "loop"},
            InputError,
            "form is 'loop'; use one of step, seq",
        ),
        (programs.feedforward, {"batch": 0}, InputError, "batch is 0; use 'dynamic'"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_error_and_no_file(
    make: Make, settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    program = make()

    with pytest.raises(error, match=message):
        export_program(program, tmp_path / "net.onnx", **settings)

    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"directory .*absent does not exist"):
        export_program(programs.feedforward(), tmp_path / "absent" / "net.onnx")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        export_program(programs.feedforward(), tmp_path)


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(ExportError, match=r"cannot be written .No space left on device"):
        export_program(programs.feedforward(), target)

    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert target.read_bytes() == b"old"


def test_an_export_replaces_the_file_that_was_there(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")

    report = export_program(programs.feedforward(), target)

    assert target.stat().st_size == report.bytes > 3

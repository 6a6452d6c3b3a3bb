# pyright: basic
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from snncompile.errors import InputError
from snncompile.export import export_program
from snncompile.ir.program import Program
from tests import programs
from tests.export.runtimes import File, run_torch, spikes, states

STEPS, BATCH = 5, 3


def reduced(kind: str) -> Program:
    step = programs.Step(nn.ModuleDict())
    x, membrane = step.input("x", 5), step.state("lif.membrane", 5)
    return step.program(step.lif(x, membrane, "lif"), reduce=kind)


@pytest.mark.parametrize("make", [programs.feedforward, programs.recurrent])
def test_an_unrolled_file_computes_the_bits_of_the_loop_without_control_flow(
    make: Callable[[], Program], tmp_path: Path
) -> None:
    program = make()
    width = int(program.placeholders()[0].meta["val"].shape[1])
    x, state = [spikes(STEPS, BATCH, width)], states(program, BATCH)

    report = export_program(program, tmp_path / "n.onnx", form="unrolled", check=(x[0],))

    outputs, after = run_torch(program, x, state)
    got, *final = File(tmp_path / "n.onnx")(*x, *state)
    graph = onnx.load(tmp_path / "n.onnx").graph
    assert np.array_equal(got, torch.stack([made[0] for made in outputs]).numpy())
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(final, after[-1], strict=True))
    assert not {node.op_type for node in graph.node} & {"Scan", "Loop", "If"}
    assert report.agreement.steps == STEPS


def test_an_unrolled_file_declares_its_number_of_steps(tmp_path: Path) -> None:
    check = (spikes(STEPS, BATCH, 8),)

    export_program(programs.feedforward(), tmp_path / "n.onnx", form="unrolled", check=check)

    graph = onnx.load(tmp_path / "n.onnx").graph
    for value in (graph.input[0], graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims][:2] == [STEPS, "N"]


@pytest.mark.parametrize("kind", ["last", "sum", "mean", "max", "running_sum", "stack"])
def test_outputs_are_reduced_over_the_steps_that_are_written_out(kind: str, tmp_path: Path) -> None:
    program = reduced(kind)
    x, held = spikes(STEPS, BATCH, 5), torch.zeros(BATCH, 5)

    export_program(program, tmp_path / "n.onnx", form="unrolled", check=(x,))
    export_program(program, tmp_path / "s.onnx", form="sequence")

    got, wanted = (File(tmp_path / name)(x, held)[0] for name in ("n.onnx", "s.onnx"))
    assert np.array_equal(got, wanted)


def test_an_unrolled_file_needs_a_number_of_steps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fixed number of steps; give example_inputs"):
        export_program(programs.feedforward(), tmp_path / "n.onnx", form="unrolled")

    assert list(tmp_path.iterdir()) == []

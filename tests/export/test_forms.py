# pyright: basic
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from snncompile.errors import ExportError
from snncompile.export import export_program
from snncompile.ir.charges import Decay
from snncompile.ir.program import Input, Program
from tests import programs
from tests.export.runtimes import File, run_torch, spikes, states

STEPS, BATCH = 6, 3


def convolutional() -> Program:
    """Its batch norm scales by dyadic numbers."""
    program = programs.convolutional()
    norm = program.root.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.eps = 0.0
    norm.running_var.fill_(4.0)
    program.root.eval()
    return program


PROGRAMS: dict[str, Callable[[], Program]] = {
    "feedforward": programs.feedforward,
    "recurrent": programs.recurrent,
    "convolutional": convolutional,
}
RUNTIMES = ("plain", "optimized", "evaluator")


def feed(
    program: Program, batch: int = BATCH, steps: int = STEPS
) -> tuple[list[Tensor], list[Tensor]]:
    node = program.placeholders()[0]
    return [spikes(steps, batch, *node.meta["val"].shape[1:])], states(program, batch)


def assert_equal(got: np.ndarray, wanted: Tensor) -> None:
    assert got.dtype == wanted.numpy().dtype
    assert np.array_equal(got, wanted.numpy())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_file_computes_the_bits_of_the_step(name: str, runtime: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]()

    report = export_program(program, tmp_path / "net.onnx", form="step")

    file = File(tmp_path / "net.onnx", runtime)
    x, state = feed(program)
    outputs, after = run_torch(program, x, state)
    rates = []
    for step in range(STEPS):
        got = file(x[0][step], *state)
        for value, wanted in zip(got, (*outputs[step], *after[step]), strict=True):
            assert_equal(value, wanted)
        state = after[step]
        rates.append(outputs[step][0].mean())
    assert report.exactness == "exact"
    assert name == "convolutional" or 0 < np.mean(rates) < 1


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_sequence_file_computes_the_bits_of_the_loop(
    name: str, runtime: str, tmp_path: Path
) -> None:
    program = PROGRAMS[name]()

    export_program(program, tmp_path / "net.onnx", form="sequence")

    file = File(tmp_path / "net.onnx", runtime)
    x, state = feed(program)
    outputs, after = run_torch(program, x, state)
    stacked = torch.stack([made[0] for made in outputs])
    wanted = stacked.mean(0) if name == "convolutional" else stacked
    got = file(*x, *state)
    assert_equal(got[0], wanted)
    for value, final in zip(got[1:], after[-1], strict=True):
        assert_equal(value, final)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (5, 9)])
def test_batch_and_steps_may_differ_from_those_of_the_check(
    name: str, batch: int, steps: int, tmp_path: Path
) -> None:
    program = PROGRAMS[name]()

    export_program(program, tmp_path / "net.onnx")

    x, state = feed(program, batch, steps)
    got = File(tmp_path / "net.onnx")(*x, *state)
    _, after = run_torch(program, x, state)
    for value, final in zip(got[1:], after[-1], strict=True):
        assert_equal(value, final)


def test_chunks_continue_where_the_one_before_stopped(tmp_path: Path) -> None:
    program = programs.recurrent()
    export_program(program, tmp_path / "net.onnx")
    file = File(tmp_path / "net.onnx")
    x, state = feed(program, steps=7)

    whole = file(*x, *state)
    first = file(x[0][:3], *state)
    second = file(x[0][3:], *(torch.from_numpy(value) for value in first[1:]))

    assert np.array_equal(np.concatenate([first[0], second[0]]), whole[0])
    assert all(np.array_equal(a, b) for a, b in zip(second[1:], whole[1:], strict=True))


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 23])
def test_every_opset_of_the_range_is_written_with_the_ir_of_its_time(
    opset: int, tmp_path: Path
) -> None:
    program = convolutional()

    export_program(program, tmp_path / "net.onnx", opset=opset)

    model = onnx.load(tmp_path / "net.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": opset, "snn": 1}
    assert model.ir_version == {17: 8, 18: 8, 20: 9, 21: 10, 23: 11}[opset]


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    program = programs.recurrent()

    report = export_program(program, tmp_path / "net.onnx", form="step")

    metadata = File(tmp_path / "net.onnx").metadata
    assert json.loads(metadata["states"])[0] == {
        "input": "lif_membrane",
        "output": "lif_membrane_next",
        "label": "lif.membrane",
        "initial": 0.0,
    }
    assert metadata["form"] == "step"
    assert metadata["exactness"] == "exact"
    assert len(metadata["weights_sha256"]) == 64
    assert "0 of 64 spikes moved" in str(report)
    assert report.functions == ("lif_decay_subtract",)


def test_a_layer_of_spikes_is_one_scan_and_a_call_of_a_local_function(tmp_path: Path) -> None:
    export_program(programs.feedforward(), tmp_path / "net.onnx")

    graph = onnx.load(tmp_path / "net.onnx").graph
    scans = [node for node in graph.node if node.op_type == "Scan"]
    bodies = [[node.op_type for node in scan.attribute[0].g.node] for scan in scans]
    assert len(scans) == 2
    assert all("lif_decay_subtract" in body and "MatMul" not in body for body in bodies)


def test_a_fixed_batch_is_declared(tmp_path: Path) -> None:
    export_program(programs.feedforward(), tmp_path / "net.onnx", batch=4)

    value = onnx.load(tmp_path / "net.onnx").graph.input[0]
    sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    assert sizes == ["T", 4, 8]


def reduced(kind: str) -> Program:
    step = programs.Step(nn.ModuleDict())
    x, membrane = step.input("x", 5), step.state("lif.membrane", 5)
    return step.program(step.lif(x, membrane, "lif"), reduce=kind)


@pytest.mark.parametrize(
    ("kind", "reduce"),
    [
        ("last", lambda s: s[-1]),
        ("sum", lambda s: s.sum(0)),
        ("mean", lambda s: s.mean(0)),
        ("max", lambda s: s.amax(0)),
        ("running_sum", lambda s: s.sum(0)),
        ("stack", lambda s: s),
    ],
)
def test_outputs_are_reduced_over_time(
    kind: str, reduce: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    program = reduced(kind)

    export_program(program, tmp_path / "net.onnx")

    x, state = feed(program)
    outputs, _ = run_torch(program, x, state)
    stacked = torch.stack([made[0] for made in outputs])
    assert_equal(File(tmp_path / "net.onnx")(*x, *state)[0], reduce(stacked))
    assert 0 < stacked.mean() < 1


def test_a_time_axis_that_is_not_the_first_stays_where_the_model_has_it(tmp_path: Path) -> None:
    program = reduced("stack")
    program.inputs = (program.inputs[0].__class__("x", "sequence", 1),)
    program.outputs = (program.outputs[0].__class__("out0", "stack", -1),)

    export_program(program, tmp_path / "net.onnx")

    x, state = feed(program)
    outputs, _ = run_torch(program, x, state)
    got = File(tmp_path / "net.onnx")(x[0].transpose(0, 1).contiguous(), *state)[0]
    assert_equal(got, torch.stack([made[0] for made in outputs], -1))


def test_a_static_input_drives_every_step(tmp_path: Path) -> None:
    step = programs.Step(programs.dyadic_(nn.ModuleDict({"fc": nn.Linear(4, 5)}), 4.0))
    x = step.input("x", 4, kind="static")
    spikes_out = step.lif(step.module("fc", x), step.state("lif.membrane", 5), "lif")
    program = step.program(spikes_out, reduce="stack")
    program.time = 7

    export_program(program, tmp_path / "net.onnx")

    still, state = spikes(3, 4), states(program, 3)
    outputs, after = run_torch(program, [still.expand(7, 3, 4)], state)
    got = File(tmp_path / "net.onnx")(still, *state)
    assert_equal(got[0], torch.stack([made[0] for made in outputs]))
    assert_equal(got[1], after[-1][0])
    assert 0 < got[0].mean() < 1


def test_a_static_input_joins_a_sequence(tmp_path: Path) -> None:
    step = programs.Step(nn.ModuleDict())
    x, offset = step.input("x", 4), step.input("offset", 4, kind="static")
    membrane = step.state("lif.membrane", 4)
    current = step.call(torch.add, x, offset)
    program = step.program(step.lif(current, membrane, "lif"))

    export_program(program, tmp_path / "net.onnx")

    (seen,), state = feed(program)
    still = spikes(BATCH, 4, seed=5) / 2
    outputs, _ = run_torch(program, [seen, still.expand(STEPS, BATCH, 4)], state)
    got = File(tmp_path / "net.onnx")(seen, still, *state)
    assert_equal(got[0], torch.stack([made[0] for made in outputs]))


def test_a_state_that_feeds_forward_only_is_a_shift_by_one_step(tmp_path: Path) -> None:
    step = programs.Step(nn.ModuleDict())
    x, before, membrane = step.input("x", 4), step.state("delay", 4), step.state("lif.membrane", 4)
    step.next["delay"] = step.call(torch.mul, x, 2.0)
    program = step.program(step.lif(before, membrane, "lif"), before)

    export_program(program, tmp_path / "net.onnx")

    inputs, state = feed(program)
    outputs, after = run_torch(program, inputs, state)
    got = File(tmp_path / "net.onnx")(*inputs, *state)
    for i in range(2):
        assert_equal(got[i], torch.stack([made[i] for made in outputs]))
        assert_equal(got[i + 2], after[-1][i])


def test_a_state_that_never_changes_passes_through(tmp_path: Path) -> None:
    step = programs.Step(nn.ModuleDict())
    x, kept, membrane = step.input("x", 4), step.state("kept", 4), step.state("lif.membrane", 4)
    step.next["kept"] = kept
    current = step.call(torch.add, x, kept)
    program = step.program(step.lif(current, membrane, "lif"))

    for form in ("step", "sequence"):
        export_program(program, tmp_path / f"{form}.onnx", form=form)

    inputs, state = feed(program)
    got = File(tmp_path / "sequence.onnx")(*inputs, *state)
    assert_equal(got[1], state[0])


def test_a_learnable_decay_is_computed_by_torch(tmp_path: Path) -> None:
    root = nn.Module()
    root.raw = nn.Parameter(torch.tensor(0.3))
    step = programs.Step(root)
    x, membrane = step.input("x", 4), step.state("lif.membrane", 4)
    decay: Any = step.call(torch.sigmoid, step.graph.get_attr("raw"))
    program = step.program(step.lif(x, membrane, "lif", charge=Decay(decay)))

    export_program(program, tmp_path / "net.onnx")

    kinds = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    inputs, state = feed(program)
    outputs, after = run_torch(program, inputs, state)
    got = File(tmp_path / "net.onnx")(*inputs, *state)
    assert "Sigmoid" not in kinds
    assert_equal(got[0], torch.stack([made[0] for made in outputs]))
    assert_equal(got[1], after[-1][0])


def surrounded() -> Program:
    """The call gives [N, T, 6] and a membrane; before the steps it is scaled, after them read."""
    step = programs.Step(programs.dyadic_(nn.ModuleDict({"head": nn.Linear(6, 2)}), 4.0))
    x, membrane = step.input("scaled", 6), step.state("lif.membrane", 6)
    program = step.program(step.lif(x, membrane, "lif"))
    before, after = fx.Graph(), fx.Graph()
    frames, held = before.placeholder("frames"), before.placeholder("held")
    scaled = before.call_function(torch.mul, (frames, 0.5))
    first = before.call_function(torch.full_like, (held, 2.0))
    before.output((scaled, first, held))
    spikes_over_time, offset = after.placeholder("out0"), after.placeholder("held_before")
    total = after.call_function(torch.sum, (spikes_over_time,), {"dim": 0})
    after.output(
        (after.call_function(torch.add, (after.call_module("head", (total,)), 1.0)), offset)
    )
    example = torch.zeros(BATCH, STEPS, 6), torch.zeros(BATCH, 6)
    for node, value in zip(
        (frames, held, scaled, first), (*example, example[0], example[1]), strict=True
    ):
        node.meta["val"] = value
    for node in after.nodes:
        node.meta["val"] = torch.zeros(BATCH, 2)
    program.prologue, program.epilogue, program.time = before, after, STEPS
    program.inputs = (Input("scaled", "sequence", 1),)
    program.states = (replace(program.states[0], initial="lif_membrane"),)
    return program


def test_what_happens_before_and_after_the_steps_is_part_of_a_sequence_file(tmp_path: Path) -> None:
    program = surrounded()
    frames, held = spikes(BATCH, STEPS, 6) * 2, spikes(BATCH, 6, seed=4)

    export_program(program, tmp_path / "net.onnx", check=(frames, held))

    file = File(tmp_path / "net.onnx")
    outputs, after = run_torch(program, [frames.transpose(0, 1) / 2], [torch.full((BATCH, 6), 2.0)])
    total = torch.stack([made[0] for made in outputs]).sum(0)
    got = file(frames, held)
    assert file.inputs == ["frames", "held"]
    assert_equal(got[0], program.root.get_submodule("head")(total).detach() + 1.0)
    assert_equal(got[1], held)
    assert_equal(got[2], after[-1][0])
    assert 0 < total.mean() < STEPS


def test_inputs_that_are_computed_before_the_steps_have_no_step_form(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"inputs \(scaled\).*export with form='sequence'"):
        export_program(surrounded(), tmp_path / "net.onnx", form="step")

    assert list(tmp_path.iterdir()) == []

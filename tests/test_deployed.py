# pyright: basic
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import fx, nn

import snncompile
from snncompile.errors import InputError
from snncompile.export import export_program
from snncompile.export.report import Form
from snncompile.ir.program import Program
from tests import programs
from tests.export.quantised_networks import NETWORKS, Network, mlp
from tests.export.runtimes import spikes

STEPS, BATCH = 20, 3
"""More steps than one piece of a long sequence has, when the batch is 8 or more."""


def deployed(program: Program, path: Path, form: Form = "step", **settings: Any) -> Any:
    export_program(program, path / "n.onnx", form=form, **settings)
    return snncompile.Deployed(path / "n.onnx")


def fresh(network: Network, batch: int) -> list[torch.Tensor]:
    """The states before the first step: zeros."""
    shapes = [[batch, *state.shape[1:]] for state in network.program.states]
    return [torch.zeros([int(size) for size in shape]) for shape in shapes]


def inputs(network: Network, batch: int = BATCH, steps: int = STEPS) -> torch.Tensor:
    return spikes(steps, batch, *network.program.placeholders()[0].meta["val"].shape[1:])


@pytest.mark.parametrize("name", ["mlp", "residual", "recurrent"])
def test_steps_remember_their_states(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]("binary")
    net = deployed(network.program, tmp_path, weights="binary")
    x = inputs(network)

    got = [net.step(x_t) for x_t in x.numpy()]

    wanted, final = network.run(x, fresh(network, BATCH))
    assert np.array_equal(np.stack(got), torch.stack(wanted).numpy())
    assert list(net.states) == [state.label for state in network.program.states]
    assert all(np.array_equal(a, b) for a, b in zip(net.states.values(), final, strict=True))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("form", ["step", "sequence", "unrolled"])
@pytest.mark.parametrize("name", ["mlp", "residual", "recurrent"])
def test_a_sequence_runs_on_from_the_one_before(
    name: str, form: Form, batch: int, tmp_path: Path
) -> None:
    network = NETWORKS[name]("binary")
    x = inputs(network, batch)
    net = deployed(network.program, tmp_path, form, weights="binary", check=(x,))

    got = [net.run(x.numpy()), net.run(x.numpy())]

    wanted, final = network.run(torch.cat([x, x]), fresh(network, batch))
    assert np.array_equal(np.concatenate(got), torch.stack(wanted).numpy())
    assert all(np.array_equal(a, b) for a, b in zip(net.states.values(), final, strict=True))


def test_reset_starts_again_with_any_batch_size(tmp_path: Path) -> None:
    network = mlp("binary")
    net = deployed(network.program, tmp_path)
    x, y = inputs(network), inputs(network, batch=5)
    first = [net.step(x_t) for x_t in x]

    net.reset()
    again = [net.step(x_t) for x_t in x]
    net.reset()
    other = net.run(y)

    assert np.array_equal(first, again)
    assert np.array_equal(other, torch.stack(network.run(y, fresh(network, 5))[0]).numpy())


def test_another_batch_size_needs_a_reset(tmp_path: Path) -> None:
    net = deployed(programs.feedforward(), tmp_path)
    net.step(np.zeros((2, 8)))

    with pytest.raises(InputError, match=r"batch size is 3, and was 2 before; call reset\(\)"):
        net.step(np.zeros((3, 8)))

    assert net.states["lif0.membrane"].shape == (2, 16)


def test_streams_share_a_file_and_no_state(tmp_path: Path) -> None:
    network = mlp("ternary")
    net = deployed(network.program, tmp_path, weights="ternary")
    sequences = [spikes(STEPS, 1 + i % 3, 9, seed=i) for i in range(8)]

    def alone(x: torch.Tensor) -> Any:
        stream = net.stream()
        return [stream.step(x_t) for x_t in x.numpy()]

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(alone, sequences))

    for x, found in zip(sequences, got, strict=True):
        wanted, _ = network.run(x, fresh(network, x.shape[1]))
        assert np.array_equal(np.stack(found), torch.stack(wanted).numpy())
    assert net.states == {}


def reduced(kind: Any) -> Program:
    step = programs.Step(nn.ModuleDict())
    x, membrane = step.input("x", 5), step.state("lif.v", 5, initial=0.5)
    fired = step.lif(x, membrane, "lif")
    return step.program(fired, step.next["lif_v"], reduce=kind)


@pytest.mark.parametrize("kind", ["stack", "last", "sum", "mean", "max", "running_sum"])
def test_a_step_file_reduces_its_outputs_as_the_model_does(kind: str, tmp_path: Path) -> None:
    x = spikes(8, BATCH, 5)

    by_step = deployed(reduced(kind), tmp_path).run(x)
    by_sequence = deployed(reduced(kind), tmp_path, "sequence").run(x)

    assert len(by_step) == len(by_sequence) == 2
    assert all(np.array_equal(a, b) for a, b in zip(by_step, by_sequence, strict=True))
    assert by_step[0].any()


def test_an_input_without_a_time_axis_is_the_same_at_every_step(tmp_path: Path) -> None:
    step = programs.Step(nn.ModuleDict())
    x, bias = step.input("x", 4), step.input("bias", 4, kind="static")
    fired = step.lif(step.call(torch.add, x, bias), step.state("lif.v", 4), "lif")
    program = step.program(fired)
    sequence, held = spikes(STEPS, 8, 4), torch.rand(8, 4).round(decimals=1)

    by_step = deployed(program, tmp_path).run(sequence, held)
    by_sequence = deployed(program, tmp_path, "sequence").run(sequence, held)

    assert np.array_equal(by_step, by_sequence)
    assert 0 < by_step.mean() < 1


def with_epilogue() -> Program:
    program = programs.feedforward()
    after = fx.Graph()
    value = after.placeholder("out0")
    after.output((after.call_function(torch.neg, (value,)),))
    for node in after.nodes:
        node.meta["val"] = torch.zeros(1)
    return replace(program, epilogue=after)


def test_a_result_that_is_computed_after_the_steps_needs_a_sequence_file(tmp_path: Path) -> None:
    net = deployed(with_epilogue(), tmp_path)

    with pytest.raises(InputError, match="export with form='sequence'"):
        net.run(np.zeros((4, 2, 8)))

    assert net.step(np.zeros((2, 8))).shape == (2, 4)


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    net = deployed(mlp("binary").program, tmp_path, weights="binary")

    assert net.form == "step"
    assert net.about["weights"] == "binary"
    assert net.about["exactness"] == "exact"
    assert net.about["snncompile"] == snncompile.__version__


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 7)), r"input 'x' has shape \(2, 7\); give \[N, 8\]"),
        (np.zeros(8), r"input 'x' has shape \(8,\); give \[N, 8\]"),
        (np.zeros((3, 2, 8)), r"input 'x' has shape \(3, 2, 8\); give \[N, 8\]"),
    ],
)
def test_an_input_of_another_shape_is_refused(value: Any, message: str, tmp_path: Path) -> None:
    net = deployed(programs.feedforward(), tmp_path)

    with pytest.raises(InputError, match=message):
        net.step(value)

    assert net.states == {}


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    net = deployed(programs.feedforward(), tmp_path, batch=4)

    with pytest.raises(InputError, match=r"has shape \(2, 8\); give \[4, 8\]"):
        net.step(np.zeros((2, 8)))

    assert net.step(np.zeros((4, 8))).shape == (4, 4)


def test_a_sequence_file_takes_no_steps(tmp_path: Path) -> None:
    net = deployed(programs.feedforward(), tmp_path, "sequence")

    with pytest.raises(InputError, match="call run, or export with form='step'"):
        net.step(np.zeros((2, 8)))


def test_inputs_are_counted(tmp_path: Path) -> None:
    net = deployed(programs.feedforward(), tmp_path)

    with pytest.raises(InputError, match="2 inputs were given; the file takes x"):
        net.step(np.zeros((2, 8)), np.zeros((2, 8)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*net\.onnx"):
        snncompile.Deployed(tmp_path / "net.onnx")


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    export_program(programs.feedforward(), tmp_path / "n.onnx")
    data = (tmp_path / "n.onnx").read_bytes()
    (tmp_path / "n.onnx").write_bytes(data[:kept])

    with pytest.raises(InputError, match=r"onnxruntime .* does not load .*n\.onnx"):
        snncompile.Deployed(tmp_path / "n.onnx")


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    export_program(programs.feedforward(), tmp_path / "n.onnx")
    model = onnx.load(tmp_path / "n.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "n.onnx")

    with pytest.raises(InputError, match="does not say what its states are"):
        snncompile.Deployed(tmp_path / "n.onnx")


@pytest.mark.parametrize("states", ["not json", "[1]", '[{"input": "x"}]'])
def test_metadata_that_cannot_be_read_is_refused(states: str, tmp_path: Path) -> None:
    export_program(programs.feedforward(), tmp_path / "n.onnx", form="step")
    model = onnx.load(tmp_path / "n.onnx")
    next(item for item in model.metadata_props if item.key == "states").value = states
    onnx.save(model, tmp_path / "n.onnx")

    with pytest.raises(InputError, match=r"cannot be read .*export the network again"):
        snncompile.Deployed(tmp_path / "n.onnx")


def test_a_file_holds_onnx_operators_and_nothing_that_runs_beside_them(tmp_path: Path) -> None:
    export_program(mlp("binary").program, tmp_path / "n.onnx", weights="binary", form="step")

    model = onnx.load(tmp_path / "n.onnx", load_external_data=False)

    local = {function.name for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in body):
        known = node.op_type in local if node.domain == "snn" else onnx.defs.has(node.op_type)
        assert node.domain in ("", "snn")
        assert known
    assert not [tensor for tensor in model.graph.initializer if tensor.external_data]
    assert b"Python" not in model.SerializeToString()

# pyright: basic
"""What onnxruntime makes of a file: it may not add up anything in another order.

Its own optimized graph is read: every sum must still be of levels alone, with no scale multiplied
into them and no bias that a sum starts from; levels must be unpacked, and nothing quantized.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from snncompile.export import export_program
from snncompile.export.report import Form
from tests import programs
from tests.export.quantised_networks import NETWORKS
from tests.export.runtimes import File, session, spikes

SUMS = ("Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "MatMulNBits", "MatMulInteger")


def optimized(path: Path, level: str) -> onnx.ModelProto:
    written = path.with_name(f"{level}.onnx")
    session(path, level, written)
    return onnx.load(written)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def broken_sums(model: onnx.ModelProto) -> list[str]:
    """The sums that are not of levels alone."""
    found = []
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for graph in graphs(model.graph)
        for tensor in graph.initializer
    }
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type in SUMS and not is_product(node, weights):
                levels = np.abs(weights[node.input[1]])
                if len(node.input) != 2 or not np.isin(levels, (0.0, 1.0)).all():
                    found.append(f"{node.op_type} {node.name}")
    return found


def is_product(node: onnx.NodeProto, weights: dict[str, np.ndarray]) -> bool:
    """Whether a convolution multiplies every channel by a number: onnxruntime's Mul by blocks."""
    groups = {a.name: a.i for a in node.attribute if a.name == "group"}
    weight = weights[node.input[1]]
    return weight.size == weight.shape[0] == groups.get("group", 1) and len(node.input) == 2


@pytest.mark.parametrize("level", ["basic", "extended", "optimized"])
@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("kind", ["binary", "ternary"])
@pytest.mark.parametrize("name", ["mlp", "residual", "recurrent"])
def test_no_fusion_changes_what_is_added_up(
    name: str, kind: Any, form: Form, level: str, tmp_path: Path
) -> None:
    export_program(NETWORKS[name](kind).program, tmp_path / "n.onnx", weights=kind, form=form)

    model = optimized(tmp_path / "n.onnx", level)

    kinds = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    assert broken_sums(model) == []
    assert not kinds & {"Gemm", "MatMulNBits", "BatchNormalization"}
    assert kinds & set(SUMS)


@pytest.mark.parametrize("name", ["mlp", "residual", "recurrent"])
def test_weights_are_unpacked_once_when_the_file_is_loaded(name: str, tmp_path: Path) -> None:
    export_program(NETWORKS[name]("binary").program, tmp_path / "n.onnx", weights="binary")

    model = optimized(tmp_path / "n.onnx", "basic")

    stored = [tensor for graph in graphs(model.graph) for tensor in graph.initializer]
    assert not [tensor for tensor in stored if tensor.data_type == onnx.TensorProto.UINT8]


def scaled(weight: torch.Tensor, *, spiking: bool) -> Any:
    """A convolution, and behind it a scale and an offset a channel, as a fused BatchNorm is."""
    torch.manual_seed(0)
    root = nn.Module()
    root.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    root.conv.weight = nn.Parameter(weight)
    root.scale, root.offset = (nn.Parameter(torch.rand(8, 1, 1)) for _ in range(2))
    step = programs.Step(root)
    x, membrane = step.input("x", 8, 6, 6), step.state("lif.v", 8, 6, 6)
    value = step.lif(x, membrane, "lif") if spiking else x
    if not spiking:
        step.lif(x, membrane, "lif")
    product = step.call(torch.mul, step.module("conv", value), step.graph.get_attr("scale"))
    return step.program(step.call(torch.add, product, step.graph.get_attr("offset")))


@pytest.mark.parametrize("spiking", [True, False])
def test_a_scale_behind_exact_float_sums_stays_behind_them(spiking: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    program = scaled(torch.randn(8, 8, 3, 3).sign(), spiking=spiking)

    report = export_program(program, tmp_path / "n.onnx", form="step")

    x = spikes(3, 8, 6, 6)
    root: Any = program.root
    fired = (x - 1.0 >= 0).float() if spiking else x
    with torch.no_grad():
        wanted = (
            nn.functional.conv2d(fired, root.conv.weight, None, 1, 1) * root.scale + root.offset
        )
    got = File(tmp_path / "n.onnx")(x, torch.zeros(3, 8, 6, 6))[0]
    assert report.exactness == "exact"
    assert broken_sums(optimized(tmp_path / "n.onnx", "basic")) == []
    assert np.array_equal(got, wanted.numpy())


def test_the_check_sees_a_scale_that_was_fused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    program = scaled(torch.randn(8, 8, 3, 3), spiking=True)

    report = export_program(program, tmp_path / "n.onnx", form="step")

    assert report.exactness == "tolerance"
    assert broken_sums(optimized(tmp_path / "n.onnx", "basic"))

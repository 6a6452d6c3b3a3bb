# pyright: basic
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from snncompile.export import export_program
from snncompile.export.report import Form
from tests.export.quantised_networks import (
    NETWORKS,
    Network,
    deep,
    given_to,
    grow,
    quantised,
    wide,
)
from tests.export.runtimes import File, run_steps, spikes
from tests.programs import Step

RUNTIMES = ("plain", "optimized", "evaluator")
KINDS = ("binary", "ternary")

CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "padded": (lambda: nn.Conv2d(64, 128, 3, padding=1), 64, 6, 7),
    "strided": (lambda: nn.Conv2d(64, 128, 3, stride=(2, 3), padding=1, bias=False), 64, 7, 8),
    "dilated": (lambda: nn.Conv2d(64, 131, 3, padding=(0, 2), dilation=2), 64, 6, 5),
    "pointwise": (lambda: nn.Conv2d(512, 128, 1, stride=2), 512, 4, 3),
    "oblong": (lambda: nn.Conv2d(64, 128, (3, 5), padding="same"), 64, 5, 4),
    "one axis": (lambda: nn.Conv1d(128, 128, 5, padding=2), 128, 9),
    "three axes": (lambda: nn.Conv3d(32, 128, 3, stride=2, padding=1), 32, 3, 4, 5),
}
"""Layers and the shape of their inputs, without batch."""


def assert_bits_of_eager_torch(network: Network, file: File, form: Form) -> None:
    x, held = given_to(network)
    wanted, final = network.run(x, held)
    if form == "step":
        got, after = run_steps(file, x, held)
    else:
        whole, *last = file(x, *held)
        got, after = list(whole), [torch.from_numpy(value) for value in last]
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(got, wanted, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after, final, strict=True))
    assert float(torch.stack(wanted).abs().mean()) > 0


def operations(file: File) -> dict[str, set[str]]:
    """The operations of every local function."""
    return {f.name: {node.op_type for node in f.node} for f in file.model.functions}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_add_up_to_the_bits_of_eager_torch(
    kind: Any, form: Form, runtime: str, tmp_path: Path
) -> None:
    network = wide(kind)

    export_program(network.program, tmp_path / "n.onnx", weights=kind, form=form, target="x86-int8")

    file = File(tmp_path / "n.onnx", runtime)
    assert_bits_of_eager_torch(network, file, form)
    assert "MatMulInteger" in operations(file)[f"{kind}_linear_in_integers"]
    assert "MatMul" in operations(file)[f"{kind}_linear_of_reals"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_add_up_to_the_bits_of_eager_torch(
    name: str, kind: Any, halves: bool, runtime: str, tmp_path: Path
) -> None:
    make, *shape = CONVOLUTIONS[name]
    network = deep(kind, make(), *shape, halves=halves)

    report = export_program(
        network.program, tmp_path / "n.onnx", weights=kind, form="step", target="x86-int8"
    )

    file = File(tmp_path / "n.onnx", runtime)
    assert_bits_of_eager_torch(network, file, "step")
    assert "MatMulInteger" in operations(file)[f"{kind}_conv_in_integers"]
    assert report.exactness == "exact"


def test_a_convolution_takes_sequences_of_any_batch(tmp_path: Path) -> None:
    network = deep("binary", nn.Conv2d(64, 128, 3, padding=1), 64, 5, 5)

    export_program(network.program, tmp_path / "n.onnx", weights="binary", target="x86-int8")

    file = File(tmp_path / "n.onnx")
    for batch, steps in ((1, 9), (5, 2)):
        x, held = given_to(network, batch, steps)
        assert np.array_equal(file(x, *held)[0], torch.stack(network.run(x, held)[0]).numpy())


def test_convolutions_of_equal_settings_share_a_function(tmp_path: Path) -> None:
    torch.manual_seed(0)
    root = nn.ModuleDict({name: nn.Conv2d(64, 128, 3, padding=1) for name in "ab"})
    root["c"] = nn.Conv2d(64, 128, 3)
    step = Step(root)
    x, membrane = step.input("x", 64, 5, 5), step.state("lif.v", 64, 5, 5)
    fired = step.lif(x, membrane, "lif")
    program = step.program(*(quantised(step, name, fired, "binary") for name in root))

    report = export_program(program, tmp_path / "n.onnx", weights="binary", target="x86-int8")

    found = [name for name in report.functions if name.startswith("binary_conv")]
    assert found == ["binary_conv_in_integers", "binary_conv_in_integers_2"]


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(64, 64, 3), nn.Conv2d(56, 128, 3), nn.Conv2d(256, 128, 3, groups=2)],
    ids=["few outputs", "few inputs", "groups"],
)
def test_layers_that_would_not_gain_keep_float32(layer: nn.Conv2d, tmp_path: Path) -> None:
    program = deep("binary", layer, layer.in_channels, 5, 5).program

    report = export_program(program, tmp_path / "n.onnx", weights="binary", target="x86-int8")

    assert not [name for name in report.functions if name.endswith("_in_integers")]


def test_narrow_networks_use_no_integers(tmp_path: Path) -> None:
    program = NETWORKS["residual"]("binary").program

    report = export_program(program, tmp_path / "n.onnx", weights="binary", target="x86-int8")

    assert not [name for name in report.functions if name.endswith("_in_integers")]


def test_int8_weights_add_up_in_integers_without_saturating(tmp_path: Path) -> None:
    torch.manual_seed(1)
    root = nn.ModuleDict({"a": nn.Linear(16, 64), "b": nn.Linear(64, 64)})
    root["conv"] = nn.Conv1d(64, 128, 8)
    grow(root)
    step = Step(root)
    x, v1, v2 = step.input("x", 16), step.state("lif1.v", 64), step.state("lif2.v", 64, 8)
    hidden = step.module("b", step.lif(step.module("a", x), v1, "lif1"))
    spread = step.call(torch.mul, step.call(torch.unsqueeze, hidden, 2), torch_ones(step))
    program = step.program(step.module("conv", step.lif(spread, v2, "lif2")))
    check = (spikes(10, 16, 16),)

    report = export_program(
        program, tmp_path / "n.onnx", weights="int8", target="x86-int8", check=check
    )

    assert {"int8_linear_in_integers", "int8_conv_in_integers"} <= set(report.functions)
    assert (report.agreement.moved, report.agreement.difference) == (0, 0.0)


def torch_ones(step: Step) -> Any:
    """A row of ones that the root holds."""
    step.root.register_buffer("ones", torch.ones(8))
    return step.graph.get_attr("ones")

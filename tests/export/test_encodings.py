# pyright: basic
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snncompile.errors import ExportError, InputError
from snncompile.export import export_program
from snncompile.export.encodings import encoded
from snncompile.export.packing import packed, table
from snncompile.export.report import Form
from snncompile.ir.program import Program
from snncompile.ir.quantised import binarized, ternarized
from tests import programs
from tests.export.quantised_networks import BATCH, NETWORKS, STEPS, given_to, on_the_threshold
from tests.export.runtimes import File, run_steps, spikes

RUNTIMES = ("plain", "basic", "extended", "optimized", "evaluator")
KINDS = ("binary", "ternary")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_file_computes_the_bits_of_eager_torch(
    name: str, kind: Any, runtime: str, tmp_path: Path
) -> None:
    network = NETWORKS[name](kind)

    report = export_program(network.program, tmp_path / "n.onnx", weights=kind, form="step")

    x, held = given_to(network)
    wanted, final = network.run(x, held)
    got, after = run_steps(File(tmp_path / "n.onnx", runtime), x, held)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(got, wanted, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after, final, strict=True))
    assert report.exactness == "exact"
    assert set(report.weights.layers.values()) <= {kind, "binary"}
    assert float(torch.stack(wanted).abs().mean()) > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["sequence", "unrolled"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sequence_file_computes_the_bits_of_eager_torch(
    name: str, form: Form, kind: Any, runtime: str, tmp_path: Path
) -> None:
    network = NETWORKS[name](kind)
    check = (given_to(network)[0],)

    export_program(network.program, tmp_path / "n.onnx", weights=kind, form=form, check=check)

    file = File(tmp_path / "n.onnx", runtime)
    for batch, steps in ((BATCH, STEPS), (1, STEPS if form == "unrolled" else 9)):
        x, held = given_to(network, batch, steps)
        wanted, final = network.run(x, held)
        got, *after = file(x, *held)
        assert np.array_equal(got, torch.stack(wanted).numpy())
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(after, final, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_membranes_that_meet_their_threshold_fire_in_both(kind: str) -> None:
    network = on_the_threshold(kind)
    x, (v1, v2) = given_to(network, batch=32)
    weight = network.program.root.get_parameter("a.weight").detach()

    ties = 0
    for x_t in x:
        _, (after, v2) = network.step(x_t, v1, v2)
        ties += int((0.5 * v1 + nn.functional.linear(x_t, weight) == 1.0).sum())
        v1 = after

    assert ties > 10


@pytest.mark.parametrize(("weights", "bits"), [("binary", 1), ("ternary", 2), ("int8", 8)])
def test_weights_take_as_many_bits_as_the_encoding_says(
    weights: Any, bits: int, tmp_path: Path
) -> None:
    program = NETWORKS["mlp"]("binary" if weights == "binary" else "ternary").program

    export_program(program, tmp_path / "n.onnx", weights=weights)

    model = File(tmp_path / "n.onnx").model
    stored = {t.name: len(t.raw_data) for t in model.graph.initializer}
    assert stored[f"a.weight.{'levels' if bits == 8 else weights}"] == -(-9 * 17 * bits // 8)


@given(
    st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=40),
    st.sampled_from(["binary", "ternary"]),
)
@settings(deadline=None)
def test_what_is_packed_is_found_in_the_table(levels: list[int], encoding: Any) -> None:
    wanted = [level or 1 for level in levels] if encoding == "binary" else levels

    data = packed(torch.tensor(wanted, dtype=torch.int8), encoding)

    assert table(encoding)[data.numpy()].flatten()[: len(wanted)].tolist() == wanted
    assert len(data) == -(-len(wanted) // (8 if encoding == "binary" else 4))


@given(st.integers(0, 2**16), st.sampled_from([(3, 5), (4, 2, 3, 3)]))
@settings(max_examples=30, deadline=None)
def test_binary_and_ternary_weights_are_recognised_by_their_numbers(
    seed: int, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    kinds: list[tuple[Any, Any]] = [(binarized, "binary"), (ternarized, "ternary")]
    for quantise, kind in kinds:
        value = quantise(weight, axis=0)
        code = encoded(value, kind)
        assert code is not None
        assert code.scale is not None
        scale = code.scale.reshape(-1, *(1,) * (len(shape) - 1))
        assert torch.equal(scale * code.levels, value)
    assert encoded(weight, "binary") is None
    assert encoded(weight, "ternary") is None


def test_a_channel_of_zeros_is_binary() -> None:
    weight = torch.tensor([[0.0, -0.0], [0.5, -0.5]])

    code = encoded(weight, "binary")

    assert code is not None
    assert code.levels.tolist() == [[1, 1], [1, -1]]
    assert code.scale is not None
    assert code.scale.tolist() == [0.0, 0.5]


def test_int8_rounds_each_channel_to_the_nearest_of_255_levels() -> None:
    weight = torch.tensor([[1.27, -0.126, 0.0], [0.0127, 0.001249, -0.0127]])

    code = encoded(weight, "int8")

    assert code is not None
    assert code.levels.tolist() == [[127, -13, 0], [127, 12, -127]]


def test_int8_keeps_weights_that_are_such_multiples() -> None:
    weight = torch.tensor([[0.25, -1.5, 3.0]])

    code = encoded(weight, "int8")

    assert code is not None
    assert code.scale is not None
    assert code.levels.tolist() == [[1, -6, 12]]
    assert code.scale.tolist() == [0.25]


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_int8_files_agree_with_torch_and_tell_what_rounding_changed(
    form: Any, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    root = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 10))
    program = of_layers(root, 16)

    report = export_program(
        program, tmp_path / "n.onnx", weights="int8", form=form, check=(spikes(40, 16, 16),)
    )

    assert report.exactness == "exact"
    assert (report.agreement.moved, report.agreement.difference) == (0, 0.0)
    assert 0 < report.weights.moved < report.agreement.spikes / 20
    assert report.weights.bytes < report.weights.bytes_of_float32 / 3
    assert "spikes differ" in str(report)


def of_layers(root: nn.Sequential, width: int) -> Program:
    """Linear layers with their weights doubled, LIF behind each."""
    step = programs.Step(root)
    value = step.input("x", width)
    widths = [layer.out_features for layer in root if isinstance(layer, nn.Linear)]
    membranes = [step.state(f"lif{i}.v", width) for i, width in enumerate(widths)]
    for i, membrane in enumerate(membranes):
        value = step.lif(step.call(torch.mul, step.module(str(i), value), 4.0), membrane, f"n{i}")
    return step.program(value)


def test_layers_that_are_not_binary_stay_float32_next_to_those_that_are(tmp_path: Path) -> None:
    network = NETWORKS["residual"]("binary")
    for node in list(network.program.step.nodes):
        if node.target is binarized and node.args[0].target in ("stem.weight", "head.weight"):
            node.replace_all_uses_with(node.args[0])
            network.program.step.erase_node(node)

    report = export_program(network.program, tmp_path / "n.onnx", weights="binary")

    assert report.weights.layers == {
        "stem.weight": "float32",
        "deep.weight": "binary",
        "down.weight": "binary",
        "head.weight": "float32",
    }


def parametrized() -> Program:
    class Sign(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return binarized(weight, axis=0)

    torch.manual_seed(0)
    root = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 10))
    for layer in root:
        nn.utils.parametrize.register_parametrization(layer, "weight", Sign())
    return of_layers(root, 16)


def test_binary_weights_of_a_parametrized_layer_are_found(tmp_path: Path) -> None:
    report = export_program(parametrized(), tmp_path / "n.onnx", weights="binary")

    assert set(report.weights.layers.values()) == {"binary"}


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["binary", "ternary"])
def test_float_weights_are_refused_with_the_way_out(weights: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"no layer has {weights} weights.*'binarize'"):
        export_program(programs.feedforward(), tmp_path / "n.onnx", weights=weights)

    assert list(tmp_path.iterdir()) == []


def test_a_network_without_synapses_has_nothing_to_encode(tmp_path: Path) -> None:
    step = programs.Step(nn.ModuleDict())
    program = step.program(step.lif(step.input("x", 4), step.state("lif.v", 4), "lif"))

    with pytest.raises(ExportError, match="no linear layer or convolution to encode as int8"):
        export_program(program, tmp_path / "n.onnx", weights="int8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_weight_that_is_not_finite_is_named(value: float, name: str, tmp_path: Path) -> None:
    program = programs.feedforward()
    with torch.no_grad():
        getattr(program.root.get_submodule("1"), name)[0] = value

    with pytest.raises(ExportError, match=rf"%1.*module 1.*its {name} has values .* not finite"):
        export_program(program, tmp_path / "n.onnx")

    assert list(tmp_path.iterdir()) == []


def test_a_fan_in_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    width = 2**24 // 127 + 2
    layer = nn.Linear(width, 1, bias=False)
    with torch.no_grad():
        layer.weight[:] = 127 / 64
        layer.weight[0, 0] = 100 / 64
    root = nn.ModuleDict({"head": layer})
    step = programs.Step(root)
    fired = step.lif(step.input("x", width), step.state("lif.v", width), "lif")
    program = step.program(step.module("head", fired))

    with pytest.raises(ExportError, match=r"%head.*may exceed 2\^24.*weights='float32'"):
        export_program(program, tmp_path / "n.onnx", weights="int8")

    assert list(tmp_path.iterdir()) == []


def test_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    weights: Any = "int3"

    with pytest.raises(InputError, match="weights is 'int3'; use one of float32, int8, ternary"):
        export_program(programs.feedforward(), tmp_path / "n.onnx", weights=weights)

"""Kernels of Triton for GPUs, as far as they can be checked without one: compiled, not run."""

# pyright: basic

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.kernels import build, scan
from snncompile.kernels.scan import FusedScan
from snncompile.kernels.settings import Hole
from snncompile.kernels.step import Definition, trace
from snncompile.kernels.sweep import sweeps
from snncompile.kernels.triton import modules
from snncompile.kernels.triton.source import source
from snncompile.kernels.triton.target import LARGEST, Gpu, Shape, shape
from tests.kernels.interpreter import hopper as hopper  # noqa: PLC0414
from tests.kernels.test_operators import LIF

HOLES: tuple[Any, ...] = (Hole(0), Hole(1))
LEARNT = {**LIF, "charge": neurons.Relax(HOLES[0]), "threshold": HOLES[1]}
NEURONS: dict[str, tuple[Any, dict[str, Any], int, tuple[bool, ...]]] = {
    "lif": (neurons.lif, {**LIF, "charge": neurons.Relax(2.5, 0.1)}, 1, ()),
    "learnt": (neurons.lif, LEARNT, 1, (True, False)),
    "adaptive": (neurons.adaptive_lif, {**LIF, "rate": 0.1, "jump": 0.3}, 2, ()),
    "rough": (neurons.lif, {**LIF, "surrogate": Surrogate("tanh", (2.0,))}, 1, ()),
}
FUSED = re.compile(r"\b(?:fma|mad)\.\w+[.\w]*f(?:32|64)|div\.(?:full|approx)|sqrt\.approx")


def definition(name: str, dtype: torch.dtype = torch.float32) -> Definition:
    neuron, settings, states, scalars = NEURONS[name]
    needs = (True,) * (1 + states + len(scalars))
    return Definition(
        neuron, tuple(settings.items()), states, scalars, dtype, (0, 1), needs, device="cuda"
    )


def assembly(defined: Definition, divided: Shape = LARGEST) -> dict[str, str]:
    """The PTX of a kernel's functions."""
    parted = sweeps(defined, trace(defined))
    printed = source(parted)
    _, functions = Gpu().build(parted)
    found: dict[str, str] = {}
    for (name, arrays), function in zip(printed.arrays.items(), functions, strict=True):
        given = [value for dtype in arrays for value in (dtype, 16)]
        made: Any = function.warmup(16, 16, *given, **divided.options, grid=(1,))  # type: ignore[attr-defined]
        found[name] = made.asm["ptx"]
    return found


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("lif", torch.float64), ("learnt", torch.float32), ("adaptive", torch.float32)],
)
def test_no_instruction_rounds_otherwise_than_torch(name: str, dtype: torch.dtype) -> None:
    found = assembly(definition(name, dtype))

    assert found.keys() == {"forward", "backward"}
    assert not [match for text in found.values() for match in FUSED.findall(text)]
    bits = str(dtype)[-2:]
    assert f"mul.rn.f{bits}" in found["forward"]


@pytest.mark.usefixtures("hopper")
def test_few_elements_are_read_far_ahead() -> None:
    found = assembly(definition("lif"), shape(8192, 132))

    assert all(text.count("cp.async.ca") >= 15 for text in found.values())
    assert not [match for text in found.values() for match in FUSED.findall(text)]


@pytest.mark.usefixtures("hopper")
def test_only_functions_of_cuda_fuse() -> None:
    found = assembly(definition("rough"))

    assert FUSED.findall("".join(found.values()))


@pytest.mark.usefixtures("hopper")
def test_fake_tensors_stay_on_their_device() -> None:
    neuron = FusedScan(neurons.lif, tuple(LIF.items()))

    with FakeTensorMode():
        given = torch.empty(4, 2, 3, device="cuda")
        found = neuron(given, (torch.empty(2, 3, device="cuda"),), (), (0,))
        assert found is not None
        (spikes, _), (membrane,) = found

    assert spikes is not None
    assert {value.device.type for value in (spikes, membrane)} == {"cuda"}
    assert (spikes.shape, spikes.stride()) == (given.shape, given.stride())


def quotients(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A step that divides by a number, as a kernel for a device computes it; its operand."""

    def neuron(current: Tensor) -> tuple[Tensor]:
        return (current / 2.5,)

    defined = Definition(neuron, (), 0, (), dtype, (0,), (False,), device)
    operand = torch.randn(1000, dtype=dtype)
    graph = fx.Interpreter(fx.GraphModule({}, trace(defined).graph))
    return graph.run(operand)[0][0], operand


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_divide_as_they_do_on_the_device(dtype: torch.dtype) -> None:
    on_cpu, operand = quotients("cpu", dtype)
    assert torch.equal(on_cpu, operand / 2.5)

    on_gpu, operand = quotients("cuda", dtype)
    assert torch.equal(on_gpu, operand * torch.tensor(2.5, dtype=dtype).reciprocal())
    assert not torch.equal(on_gpu, operand / 2.5)


def scanned(threshold: float) -> object:
    settings = {**LIF, "threshold": threshold}
    return FusedScan(neurons.lif, tuple(settings.items()))(
        torch.rand(4, 3), (torch.zeros(3),), (), (0,)
    )


def test_on_the_cpu_without_the_interpreter_scans_are_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    assert scanned(0.51) is None


def test_without_triton_scans_are_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)

    assert scanned(0.52) is None


@pytest.mark.usefixtures("hopper")
def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "nonsense")

    with pytest.raises(build.BuildError, match="Triton failed"):
        assembly(definition("lif"))


def test_devices_of_other_makers_run_loops() -> None:
    neuron = FusedScan(neurons.lif, tuple(LIF.items()))

    assert "xpu" not in scan.TARGETS
    assert neuron(torch.rand(4, 3, device="meta"), (torch.zeros(3),), (), (0,)) is None


def test_a_target_is_part_of_a_kernels_key(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel: Any = FusedScan(neurons.lif, tuple(LIF.items()))._kernel
    shape = ((), torch.float32, (0,), (False, False), "cpu")
    on_cpu = kernel(*shape)
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    assert kernel(*shape) not in (on_cpu, "")


def test_a_damaged_module_is_written_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(modules, "cache_directory", lambda: tmp_path)

    assert modules.module("answer = 42").answer == 42
    (file,) = tmp_path.glob("*.py")
    file.write_text("answer = 4")
    assert modules.module("answer = 42").answer == 42


def test_the_fewer_elements_the_more_steps_ahead() -> None:
    small, medium, large = (shape(width, 132) for width in (8192, 2**18, 2**24))

    assert small == (32, 16)
    assert medium.block == 256
    assert large == (1024, 1)

"""What is left out of layers on small maps changes nothing but the order of sums."""

# pyright: basic

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, fx, nn

import snncompile
from snncompile.ir.program import Program, value_of
from snncompile.passes.small_maps import SmallMaps
from tests.models import CASES
from tests.programs import Step, dyadic_

RESNET = next(case for case in CASES if case.name == "spiking_resnet18")


def one_layer(make: Callable[[], nn.Module], *shape: int) -> Program:
    step = Step(nn.ModuleDict({"layer": dyadic_(make(), 4.0)}))
    return step.program(step.module("layer", step.input("x", *shape)))


def called(program: Program, name: str) -> list[fx.Node]:
    return [node for node in program.step.nodes if getattr(node.target, "__name__", "") == name]


def conv(*args: int, **kwargs: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(2, 3, *args, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "size", "kernel"),
    [
        (conv(3, padding=1), (1, 1), (1, 1)),
        (conv(3, padding=1), (1, 4), (1, 3)),
        (conv(3, padding=1, stride=2), (2, 2), (2, 2)),
        (conv(7, padding=3, stride=2), (4, 4), (6, 6)),
        (conv(5, padding=2), (2, 1), (3, 1)),
        (conv(3, padding=2, dilation=2), (2, 2), (1, 1)),
        (conv(3, padding=1, bias=False), (1, 1), (1, 1)),
        (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2), (1, 1), (1, 1)),
        (lambda: nn.Conv1d(2, 3, 3, padding=1), (1,), (1,)),
        (lambda: nn.Conv3d(2, 3, 3, padding=1), (1, 2, 1), (1, 3, 1)),
    ],
)
def test_a_kernel_keeps_the_taps_that_meet_the_map(
    make: Callable[[], nn.Module], size: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    convolution = dyadic_(make(), 4.0)
    program = one_layer(lambda: convolution, 2, *size)

    assert SmallMaps()(program) == 1
    assert SmallMaps()(program) == 0

    (part,) = called(program, "getitem")
    assert value_of(part).shape[2:] == kernel
    x = torch.randint(-8, 8, (3, 2, *size)) / 8
    (found,), _ = fx.GraphModule(program.root, program.step)(x)
    expected = convolution(x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (conv(3, padding=1), (2, 2)),
        (conv(1), (1, 1)),
        (conv(3, padding=1, stride=2), (4, 4)),
        (conv(3, padding=1, padding_mode="circular"), (1, 1)),
        (conv(3, padding="same"), (1, 1)),
        (lambda: nn.ConvTranspose2d(2, 3, 3, padding=1), (2, 2)),
        (lambda: nn.utils.parametrizations.weight_norm(conv(3, padding=1)()), (1, 1)),
    ],
)
def test_other_convolutions_stay_as_they_are(
    make: Callable[[], nn.Module], size: tuple[int, ...]
) -> None:
    assert SmallMaps()(one_layer(make, 2, *size)) == 0


def test_a_layer_that_is_watched_stays_as_it_is() -> None:
    program = one_layer(conv(3, padding=1), 2, 1, 1)
    program.root.get_submodule("layer").register_forward_hook(lambda *_: None)

    assert SmallMaps()(program) == 0


def pooled(size: tuple[int, int], read: tuple[int, int]) -> Program:
    inputs = 2 * size[0] * size[1]
    layers = {"pool": nn.AdaptiveAvgPool2d(size), "head": nn.Linear(inputs, 3)}
    step = Step(dyadic_(nn.ModuleDict(layers), 4.0))
    value = step.module("pool", step.input("x", 2, *read))
    return step.program(step.module("head", step.call(torch.flatten, value, 1)))


@pytest.mark.parametrize(
    ("size", "read", "sums"),
    [
        ((7, 7), (1, 1), 1),
        ((4, 2), (2, 2), 1),
        ((4, 6), (2, 3), 1),
        ((3, 3), (2, 2), 0),
        ((2, 2), (2, 2), 0),
        ((2, 2), (4, 4), 0),
        ((4, 1), (2, 2), 0),
    ],
)
def test_weights_of_a_repeated_value_are_summed(
    size: tuple[int, int], read: tuple[int, int], sums: int
) -> None:
    program = pooled(size, read)

    assert SmallMaps()(program) == sums
    assert len(called(program, "linear")) == sums


class Small(nn.Module):
    """A network for larger images than it gets, over sequences or step by step."""

    def __init__(self) -> None:
        super().__init__()
        settings = {"surrogate_function": surrogate.ATan(), "detach_reset": True}
        shared = layer.Conv2d(6, 6, 3, padding=1)
        lifs = [neuron.LIFNode(decay_input=False, v_reset=None, **settings) for _ in range(3)]
        self.features = nn.Sequential(
            layer.Conv2d(2, 6, 5, stride=2, padding=2), lifs[0], layer.MaxPool2d(2),
            shared, lifs[1], shared, lifs[2], layer.AdaptiveAvgPool2d((4, 2)),
        )  # fmt: skip
        self.head = nn.Sequential(layer.Flatten(), layer.Linear(48, 3))
        functional.set_step_mode(self, "m")
        dyadic_(self, 8.0)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.features(x)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("schedule", ["steps", "layers", 2])
@pytest.mark.parametrize("passes", [("small-maps",), ("small-maps", "event-driven")], ids=len)
def test_on_dyadic_numbers_a_network_keeps_every_bit(
    passes: tuple[str, ...], schedule: Any, train: bool, batch: int
) -> None:
    torch.manual_seed(0)
    model = Small().train(train)
    fast = snncompile.transform(copy.deepcopy(model), list(passes), schedule=schedule)

    for _ in range(2):
        report = snncompile.verify(model, fast, torch.randint(0, 3, (4, batch, 2, 4, 4)) / 2)
        assert report.ok, str(report)
        assert all(neuron.moved == 0 for neuron in report.neurons), str(report)


def test_gradients_are_the_models_in_double_precision() -> None:
    torch.manual_seed(0)
    model = Small().double()
    fast = snncompile.transform(model, "small-maps")

    report = snncompile.verify(model, fast, torch.rand(4, 2, 2, 4, 4, dtype=torch.float64))

    assert report.ok, str(report)
    assert max(gradient.error for gradient in report.gradients) <= 1e-12


def test_parameters_are_the_models_own() -> None:
    model = Small()
    fast = snncompile.transform(model, "small-maps")

    fast(torch.rand(4, 2, 2, 4, 4)).sum().backward()

    assert list(fast.state_dict()) == list(model.state_dict())
    assert all(parameter.grad is not None for parameter in fast.parameters())


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_a_library_network_agrees_in_double_precision(train: bool) -> None:
    model = RESNET.model(train=train, dtype=torch.float64)
    fast = snncompile.transform(model, ["small-maps", "channels-last"], schedule="layers")

    report = snncompile.verify(model, fast, RESNET.input(dtype=torch.float64))

    assert report.ok, str(report)
    assert max(gradient.error for gradient in report.gradients) <= 1e-12


def test_a_cut_network_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fast = snncompile.transform(Small().eval(), "small-maps")
    x = torch.randint(0, 3, (4, 2, 2, 4, 4)) / 2

    snncompile.export(fast, tmp_path / "net.onnx", example_inputs=x)

    session = InferenceSession(tmp_path / "net.onnx")
    sizes = {given.name: given.shape for given in session.get_inputs() if given.name != "x"}
    rest = {name: np.zeros((2, *shape[1:]), np.float32) for name, shape in sizes.items()}
    found = session.run(None, {"x": x.numpy(), **rest})[0]
    assert torch.equal(torch.from_numpy(found), fast(x))

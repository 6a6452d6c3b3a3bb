# pyright: basic
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snncompile.export import export_program
from snncompile.ir.program import Program
from tests import programs
from tests.export.quantised_networks import grow, quantised

FLOAT_RESNET = 44_700_000
LARGEST_RESNET = 1_700_000
"""Bytes: of the float32 weights of a ResNet-18 for small images, and of its file in bits."""


class Spiking:
    """Writes a step of layers with a LIF behind each, quantised unless said otherwise."""

    def __init__(
        self, root: nn.ModuleDict, x: tuple[int, ...], states: list[tuple[int, ...]]
    ) -> None:
        self.step = programs.Step(root)
        self.x = self.step.input("x", *x)
        self.states = [self.step.state(f"lif{i}.v", *shape) for i, shape in enumerate(states)]

    def layer(self, name: str, value: Any, *, binary: bool = True) -> Any:
        if binary:
            return quantised(self.step, name, value, "binary")
        return self.step.module(name, value)

    def fire(self, value: Any) -> Any:
        state = self.states.pop(0)
        return self.step.lif(value, state, f"{state.name}.neuron")


def vgg() -> Program:
    """Six convolutions of 64 to 512 channels and 8192 to 512 to 10: 6.5 million weights."""
    plan = [(3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    sizes, pooled = [32, 16, 16, 8, 8, 4], {0, 2, 4}
    layers: dict[str, nn.Module] = {
        f"conv{i}": nn.Conv2d(a, b, 3, padding=1) for i, (a, b) in enumerate(plan)
    }
    root = nn.ModuleDict({**layers, "pool": nn.MaxPool2d(2), "fc": nn.Linear(8192, 512)})
    root["head"] = nn.Linear(512, 10)
    shapes: list[tuple[int, ...]] = [
        (b, size, size) for (_, b), size in zip(plan, sizes, strict=True)
    ]
    net = Spiking(root, (3, 32, 32), [*shapes, (512,)])
    value = net.x
    for i in range(len(plan)):
        value = net.fire(net.layer(f"conv{i}", value))
        value = net.step.module("pool", value) if i in pooled else value
    value = net.step.call(torch.flatten, value, 1)
    return net.step.program(net.layer("head", net.fire(net.layer("fc", value))))


def resnet() -> Program:
    """ResNet-18 for 32 x 32 images; stem, classifier and BatchNorm-free shortcuts included."""
    widths, size = [64, 64, 128, 128, 256, 256, 512, 512], 32
    root = nn.ModuleDict({"stem": nn.Conv2d(3, 64, 3, padding=1, bias=False)})
    before = 64
    shapes: list[tuple[int, ...]] = [(64, 32, 32)]
    for i, width in enumerate(widths):
        stride = 1 + (width != before)
        size //= stride
        root[f"first{i}"] = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        root[f"second{i}"] = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        if stride > 1:
            root[f"shortcut{i}"] = nn.Conv2d(before, width, 1, stride, bias=False)
        shapes += [(width, size, size)] * 2
        before = width
    root.update({"pool": nn.AvgPool2d(4), "head": nn.Linear(512, 10)})
    net = Spiking(root, (3, 32, 32), shapes)
    value = net.fire(net.layer("stem", net.x, binary=False))
    for i in range(len(widths)):
        inner = net.layer(f"second{i}", net.fire(net.layer(f"first{i}", value)))
        kept = net.layer(f"shortcut{i}", value) if f"shortcut{i}" in root else value
        value = net.fire(net.step.call(torch.add, inner, kept))
    flat = net.step.call(torch.flatten, net.step.module("pool", value), 1)
    return net.step.program(net.layer("head", flat, binary=False))


def test_a_vgg_takes_a_thirtieth_of_its_float32_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program, check = vgg(), (torch.rand(1, 1, 3, 32, 32),)

    binary = export_program(program, tmp_path / "1.onnx", weights="binary", check=check)
    plain = export_program(program, tmp_path / "32.onnx", check=check)

    assert binary.weights.bytes_of_float32 > 25_000_000
    assert binary.bytes * 30 <= plain.bytes


def test_a_resnet_with_float_stem_and_classifier_takes_at_most_1_7_megabytes(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    program = resnet()
    grow(program.root)

    report = export_program(
        program, tmp_path / "1.onnx", weights="binary", check=(torch.rand(1, 1, 3, 32, 32),)
    )

    kinds = report.weights.layers
    assert (kinds["stem.weight"], kinds["head.weight"]) == ("float32", "float32")
    assert list(kinds.values()).count("binary") == len(kinds) - 2
    assert report.weights.bytes_of_float32 > FLOAT_RESNET * 0.98
    assert report.bytes <= LARGEST_RESNET
    assert report.agreement.moved == 0

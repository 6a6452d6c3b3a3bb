# pyright: basic
"""Networks with binary or ternary weights: as programs, and as eager torch in the file's order.

The eager step adds up signs, scales and then offsets, written out by hand; it takes from the
program nothing but the parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snncompile.ir.program import Program
from snncompile.ir.quantised import binarized, binary_parts, ternarized, ternary_parts
from tests import programs
from tests.export.runtimes import spikes, states

Step: TypeAlias = Callable[..., tuple[list[Tensor], list[Tensor]]]
QUANTISERS: dict[str, Any] = {"binary": binarized, "ternary": ternarized}
PARTS: dict[str, Any] = {"binary": binary_parts, "ternary": ternary_parts}


@dataclass
class Network:
    """A program, and its step in eager torch: (input, states) to (outputs, next states)."""

    program: Program
    step: Step

    def run(self, x: Tensor, states: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The first output of every step, and the final states."""
        outputs = []
        with torch.no_grad():
            for x_t in x:
                made, states = self.step(x_t, *states)
                outputs.append(made[0])
        return outputs, states


STEPS, BATCH = 6, 3


def given_to(
    network: Network, batch: int = BATCH, steps: int = STEPS
) -> tuple[Tensor, list[Tensor]]:
    """Spikes for the input, and for the states multiples of 1/8; those that hold spikes are zero."""
    shape = network.program.placeholders()[0].meta["val"].shape[1:]
    held = [
        torch.zeros_like(value) if state.name.endswith("_s") else value
        for state, value in zip(network.program.states, states(network.program, batch), strict=True)
    ]
    return spikes(steps, batch, *shape), held


def quantised(step: programs.Step, name: str, x: fx.Node, kind: str) -> fx.Node:
    """A call of the root's layer at `name` with quantised weights."""
    layer: Any = step.root.get_submodule(name)
    weight = step.call(QUANTISERS[kind], step.graph.get_attr(f"{name}.weight"), axis=0)
    bias = None if layer.bias is None else step.graph.get_attr(f"{name}.bias")
    if isinstance(layer, nn.Linear):
        return step.call(functional.linear, x, weight, bias)
    function = {nn.Conv1d: torch.conv1d, nn.Conv2d: torch.conv2d, nn.Conv3d: torch.conv3d}
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return step.call(function[type(layer)], x, weight, bias, *settings)


def current(layer: Any, x: Tensor, kind: str) -> Tensor:
    """What the file computes for such a layer: sums of signs, times the scale, plus the bias."""
    signs, scale = PARTS[kind](layer.weight, axis=0)
    if isinstance(layer, nn.Linear):
        found: Tensor = functional.linear(x, signs) * scale.flatten()
        return found if layer.bias is None else found + layer.bias
    found = layer._conv_forward(x, signs, None)
    ones = (1,) * (x.dim() - 2)
    found = found * scale.reshape(-1, *ones)
    return found if layer.bias is None else found + layer.bias.reshape(-1, *ones)


def lif(drive: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
    """Decay 0.5, threshold 1, the reset subtracts."""
    charged = 0.5 * membrane + drive
    spikes = (charged - 1.0 >= 0).float()
    return spikes, charged - spikes * 1.0


def mlp(kind: str) -> Network:
    """9-17-4: weights fill no whole number of bytes."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"a": nn.Linear(9, 17), "b": nn.Linear(17, 4, bias=False)})
    grow(root)
    step = programs.Step(root)
    x, first, second = step.input("x", 9), step.state("lif1.v", 17), step.state("lif2.v", 4)
    spikes = step.lif(quantised(step, "a", x, kind), first, "lif1")
    program = step.program(step.lif(quantised(step, "b", spikes, kind), second, "lif2"))

    def eager(x: Tensor, v1: Tensor, v2: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        s1, v1 = lif(current(root["a"], x, kind), v1)
        s2, v2 = lif(current(root["b"], s1, kind), v2)
        return [s2], [v1, v2]

    return Network(program, eager)


def residual(kind: str) -> Network:
    """A stem, a strided and a grouped convolution, spikes added, averaged over 2 x 2, read out."""
    torch.manual_seed(0)
    layers = {
        "stem": nn.Conv2d(1, 8, 3, padding=1),
        "deep": nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False),
        "down": nn.Conv2d(8, 6, 3, stride=2, padding=1),
        "pool": nn.AvgPool2d(2),
        "head": nn.Linear(6 * 4, 3),
    }
    root = nn.ModuleDict(layers)
    grow(root)
    step = programs.Step(root)
    x = step.input("x", 1, 8, 8)
    states = [step.state(f"lif{i}.v", *shape) for i, shape in enumerate(_SHAPES)]
    s0 = step.lif(quantised(step, "stem", x, kind), states[0], "lif0")
    s1 = step.lif(quantised(step, "deep", s0, kind), states[1], "lif1")
    added = step.call(torch.add, s1, s0)
    s2 = step.lif(quantised(step, "down", added, kind), states[2], "lif2")
    flat = step.call(torch.flatten, step.module("pool", s2), 1)
    program = step.program(quantised(step, "head", flat, kind))

    def eager(x: Tensor, *v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        s0, v0 = lif(current(root["stem"], x, kind), v[0])
        s1, v1 = lif(current(root["deep"], s0, kind), v[1])
        s2, v2 = lif(current(root["down"], s1 + s0, kind), v[2])
        flat = functional.avg_pool2d(s2, 2).flatten(1)
        return [current(root["head"], flat, kind)], [v0, v1, v2]

    return Network(program, eager)


_SHAPES = ((8, 8, 8), (8, 8, 8), (6, 4, 4))


def recurrent(kind: str) -> Network:
    """Spikes come back through a second quantised layer."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"into": nn.Linear(4, 8), "back": nn.Linear(8, 8)})
    grow(root)
    step = programs.Step(root)
    x = step.input("x", 4)
    membrane, spikes = step.state("lif.v", 8), step.state("lif.s", 8)
    drive = step.call(
        torch.add, quantised(step, "into", x, kind), quantised(step, "back", spikes, kind)
    )
    fired = step.lif(drive, membrane, "lif")
    step.next["lif_s"] = fired
    program = step.program(fired)

    def eager(x: Tensor, v: Tensor, s: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        s, v = lif(current(root["into"], x, kind) + current(root["back"], s, kind), v)
        return [s], [v, s]

    return Network(program, eager)


def wide(kind: str) -> Network:
    """An MLP with a hidden layer that is wide enough for integers, on counts and on spikes."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"a": nn.Linear(8, 33), "b": nn.Linear(33, 96), "c": nn.Linear(96, 72)})
    grow(root)
    step = programs.Step(root)
    x, v1, v2 = step.input("x", 8), step.state("lif1.v", 33), step.state("lif2.v", 96)
    s1 = step.lif(quantised(step, "a", x, kind), v1, "lif1")
    halves = step.call(torch.mul, step.call(torch.sub, s1, 1.0), 0.5)
    s2 = step.lif(quantised(step, "b", halves, kind), v2, "lif2")
    program = step.program(quantised(step, "c", s2, kind))

    def eager(x: Tensor, v1: Tensor, v2: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        s1, v1 = lif(current(root["a"], x, kind), v1)
        s2, v2 = lif(current(root["b"], (s1 - 1.0) * 0.5, kind), v2)
        return [current(root["c"], s2, kind)], [v1, v2]

    return Network(program, eager)


def deep(kind: str, layer: nn.Module, *shape: int, halves: bool = False) -> Network:
    """A convolution behind neurons of [N, *shape], on their spikes or on -1/2 where none is."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"conv": layer})
    step = programs.Step(root)
    x, membrane = step.input("x", *shape), step.state("lif.v", *shape)
    value = step.lif(x, membrane, "lif")
    if halves:
        value = step.call(torch.mul, step.call(torch.sub, value, 1.0), 0.5)
    program = step.program(quantised(step, "conv", value, kind))

    def eager(x: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        spikes, v = lif(x, v)
        return [current(layer, (spikes - 1.0) * 0.5 if halves else spikes, kind)], [v]

    return Network(program, eager)


def on_the_threshold(kind: str) -> Network:
    """An MLP whose scales and biases are dyadic, so that membranes meet their threshold."""
    network = mlp(kind)
    with torch.no_grad():
        for name, parameter in network.program.root.named_parameters():
            halves = torch.where(parameter < 0, -0.5, 0.5)
            parameter.copy_(halves if name.endswith("weight") else halves * 0)
    return network


def grow(root: nn.Module) -> None:
    """Larger parameters, so that neurons fire."""
    with torch.no_grad():
        for parameter in root.parameters():
            parameter.mul_(4.0)


NETWORKS: dict[str, Callable[[str], Network]] = {
    "mlp": mlp, "residual": residual, "recurrent": recurrent, "threshold": on_the_threshold,
}  # fmt: skip

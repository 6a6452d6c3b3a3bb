"""Small programs built by hand, for tests that need a program but no capture.

Dyadic weights (multiples of 1/16), decays and thresholds keep float32 arithmetic exact, so that
two orders of the same sum are bit-equal.
"""

# pyright: basic

from collections.abc import Callable
from itertools import pairwise
from operator import getitem
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from snncompile.ir import neurons
from snncompile.ir.program import Arguments, Input, Output, Program, State
from snncompile.ir.surrogates import Surrogate
from snncompile.ir.values import BATCH_HINT, fake_input, fake_mode, infer

Kind: TypeAlias = Literal["sequence", "static"]

LIF = {
    "charge": neurons.Decay(0.5),
    "threshold": 1.0,
    "reset": neurons.Subtract(),
    "surrogate": Surrogate("atan", (2.0,)),
}


def dyadic_(module: nn.Module, scale: float = 1.0) -> nn.Module:
    """Round every parameter to a multiple of 1/16, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((parameter * scale * 16).round() / 16)
    return module


class Step:
    """Writes a step graph: inputs, states, modules, neurons, then `program`."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.graph = fx.Graph()
        self.inputs: list[Input] = []
        self.states: list[State] = []
        self.examples: list[Tensor] = []
        self.next: dict[str, fx.Node] = {}

    def input(self, name: str, *shape: int, kind: Kind = "sequence") -> fx.Node:
        """An input of shape [N, *shape]; declare inputs before states."""
        self.inputs.append(Input(name, kind))
        self.examples.append(torch.zeros(BATCH_HINT, *shape))
        return self.graph.placeholder(name)

    def state(
        self, label: str, *shape: int, initial: float = 0.0, carried: bool = False
    ) -> fx.Node:
        """A state of shape [N, *shape]; declare states before any other node."""
        name = label.replace(".", "_")
        self.states.append(State(name, label, initial, ("N", *shape), carried))
        self.examples.append(torch.zeros(BATCH_HINT, *shape))
        return self.graph.placeholder(name)

    def module(self, target: str, *args: fx.Node) -> fx.Node:
        """Call the root's module at `target`."""
        node = self.graph.call_module(target, args)
        node.meta["module"] = target
        return node

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Call a function."""
        return self.graph.call_function(function, args, kwargs)

    def lif(self, current: fx.Node, membrane: fx.Node, label: str, **settings: Any) -> fx.Node:
        """A LIF neuron; returns its spikes and hands its membrane to the next step."""
        node = self.call(neurons.lif, current, membrane, **{**LIF, **settings})
        node.meta["module"] = label
        spikes = self.call(getitem, node, 0)
        self.next[str(membrane.name)] = self.call(getitem, node, 1)
        return spikes

    def program(self, *outputs: fx.Node, reduce: str = "stack") -> Program:
        """Finish: outputs are reduced over time, a tuple of them is the result."""
        nexts = tuple(self.next[state.name] for state in self.states)
        self.graph.output((tuple(outputs), nexts))
        leaves = [torch.empty(0)] * len(self.inputs)
        spec = pytree.tree_flatten((tuple(leaves), {}))[1]
        result = tuple(range(len(outputs))) if len(outputs) > 1 else 0
        program = Program(
            root=self.root,
            step=self.graph,
            inputs=tuple(self.inputs),
            states=tuple(self.states),
            outputs=tuple(Output(f"out{i}", cast("Any", reduce)) for i in range(len(outputs))),
            arguments=Arguments(spec, (None,) * len(leaves), tuple(range(len(leaves)))),
            result=pytree.tree_flatten(result)[1],
        )
        mode = fake_mode()
        infer(program, _fakes(mode, self.examples))
        return program


def _fakes(mode: FakeTensorMode, examples: list[Tensor]) -> tuple[Tensor, ...]:
    """Fake inputs that share one symbolic batch size."""
    first = fake_input(mode, examples[0])
    batch = first.shape[0]
    with mode:
        return (first, *(torch.zeros(batch, *example.shape[1:]) for example in examples[1:]))


def feedforward(widths: tuple[int, ...] = (8, 16, 4)) -> Program:
    """Linear and LIF, once per pair of widths; the last spikes are stacked over time."""
    torch.manual_seed(0)
    root = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    dyadic_(root, 4.0)
    step = Step(root)
    value = step.input("x", widths[0])
    membranes = [step.state(f"lif{i}.membrane", width) for i, width in enumerate(widths[1:])]
    for i, membrane in enumerate(membranes):
        value = step.lif(step.module(str(i), value), membrane, f"lif{i}")
    return step.program(value)


def recurrent(width: int = 8) -> Program:
    """A LIF layer whose spikes of the last step come back through a second Linear."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"into": nn.Linear(4, width), "back": nn.Linear(width, width)})
    dyadic_(root, 4.0)
    step = Step(root)
    x = step.input("x", 4)
    membrane = step.state("lif.membrane", width)
    spikes = step.state("lif.spikes", width)
    current = step.call(torch.add, step.module("into", x), step.module("back", spikes))
    fired = step.lif(current, membrane, "lif")
    step.next["lif_spikes"] = fired
    return step.program(fired)


def convolutional(channels: int = 4) -> Program:
    """Conv, BatchNorm, LIF, average pooling, a residual add, Linear read-out, averaged."""
    torch.manual_seed(0)
    root = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(1, channels, 3, padding=1, bias=False),
            "norm": nn.BatchNorm2d(channels),
            "conv2": nn.Conv2d(channels, channels, 3, padding=1),
            "pool": nn.AvgPool2d(2),
            "flatten": nn.Flatten(),
            "head": nn.Linear(channels * 16, 3),
        }
    )
    dyadic_(root, 4.0)
    step = Step(root)
    x = step.input("x", 1, 8, 8)
    first = step.state("lif1.membrane", channels, 8, 8)
    second = step.state("lif2.membrane", channels, 8, 8)
    spikes = step.lif(step.module("norm", step.module("conv1", x)), first, "lif1")
    added = step.call(torch.add, step.lif(step.module("conv2", spikes), second, "lif2"), spikes)
    flat = step.module("flatten", step.module("pool", added))
    return step.program(step.module("head", flat), reduce="mean")

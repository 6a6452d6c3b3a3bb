"""Random programs for property tests: layers, branches, residual adds, feedback, delays, statics.

Every product of a matrix reads multiples of 1/4 and has weights that are multiples of 1/4, so it is
exact in float32 and schedules may be compared bit for bit; what is finer than that (membranes,
synaptic currents) meets elementwise calls and neurons only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Literal, TypeAlias

import torch
from hypothesis import strategies as st
from torch import fx, nn

from snncompile.ir import neurons
from snncompile.ir.program import Program
from snncompile.ir.surrogates import Surrogate
from tests.programs import Step

Kind: TypeAlias = Literal[
    "linear", "add", "memory", "static", "join",
    "lif", "learnable_lif", "delayed_lif", "adaptive_lif", "integer_lif", "integrator", "synapse",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "linear", "add", "memory", "static", "join",
    "lif", "learnable_lif", "delayed_lif", "adaptive_lif", "integer_lif", "integrator", "synapse",
)  # fmt: skip
WIDTH = 4
_SURROGATE = Surrogate("atan", (2.0,))
_CHARGES = (neurons.Decay(0.5), neurons.Integrate(), neurons.Leak(2.0), neurons.Relax(2.0))
_RESETS = (neurons.Subtract(), neurons.Subtract(detach=True), neurons.Hard(), neurons.Keep())
_ORDERS = ("decay_then_add", "add_then_decay", "delay")
_LABELS: dict[Kind, tuple[str, ...]] = {
    "memory": ("value",),
    "lif": ("membrane",),
    "learnable_lif": ("membrane",),
    "delayed_lif": ("membrane",),
    "adaptive_lif": ("membrane", "adaptation"),
    "integer_lif": ("membrane",),
    "integrator": ("membrane",),
    "synapse": ("current",),
}


@dataclass(frozen=True)
class Layer:
    """One piece of a program; numbers choose among what is there, modulo how much there is."""

    kind: Kind
    source: int
    other: int
    variant: int


@st.composite
def programs(draw: st.DrawFn, kinds: Sequence[Kind] = KINDS, most: int = 8) -> Program:
    """A strategy for programs of some kinds of layers, at most `most` of them.

    Their first input is the sequence ``x``, [T, N, 4]; with a "static" layer there is a second,
    ``same``, [N, 4].
    """
    number = st.integers(0, 11)
    layer = st.builds(Layer, st.sampled_from(list(kinds)), number, number, number)
    layers = draw(st.lists(layer, min_size=1, max_size=most))
    reduce = draw(st.sampled_from(["stack", "last", "sum", "running_sum"]))
    seed, shown = draw(number), draw(number)
    return Writer(layers, seed).program(reduce, shown)


class Writer:
    """Builds the program of some layers."""

    def __init__(self, layers: Sequence[Layer], seed: int) -> None:
        self.root = nn.Module()
        self.step = Step(self.root)
        self.layers = layers
        self.generator = torch.Generator().manual_seed(seed)
        self.coarse = [self.step.input("x", WIDTH)]
        self.all = list(self.coarse)
        if any(layer.kind == "static" for layer in layers):
            self.same = self.step.input("same", WIDTH, kind="static")
        self.states = {
            (i, label): self.step.state(f"layer{i}.{label}", WIDTH)
            for i, layer in enumerate(layers)
            for label in _LABELS.get(layer.kind, ())
        }

    def program(self, reduce: str, shown: int) -> Program:
        for i, layer in enumerate(self.layers):
            node, coarse = self._layer(i, layer)
            self.all.append(node)
            if coarse:
                self.coarse.append(node)
        for i, layer in enumerate(self.layers):
            if layer.kind == "memory":
                state = self.states[i, "value"]
                self.step.next[state.name] = self.coarse[layer.other % len(self.coarse)]
        outputs = dict.fromkeys((self.coarse[-1], self.all[shown % len(self.all)]))
        return self.step.program(*outputs, reduce=reduce)

    def _layer(self, i: int, layer: Layer) -> tuple[fx.Node, bool]:
        coarse = self.coarse[layer.source % len(self.coarse)]
        fine = self.all[layer.other % len(self.all)]
        step = self.step
        match layer.kind:
            case "linear":
                return self._linear(f"layer{i}", coarse), False
            case "join":
                pair = step.call(torch.cat, (coarse, self.coarse[-1]), 1)
                return self._linear(f"layer{i}", pair, 2 * WIDTH), False
            case "add":
                other = self.coarse[layer.other % len(self.coarse)]
                return step.call(torch.add, coarse, other), len(self.coarse) < 4
            case "static":
                return step.call(torch.add, fine, self.same), False
            case "memory":
                return self.states[i, "value"], True
            case "integrator" | "synapse":
                return self._neuron(i, layer, fine), False
            case _:
                return self._neuron(i, layer, self._linear(f"layer{i}", coarse)), True

    def _linear(self, name: str, source: fx.Node, width: int = WIDTH) -> fx.Node:
        linear = nn.Linear(width, WIDTH)
        with torch.no_grad():
            for parameter in linear.parameters():
                drawn = torch.randint(-3, 5, parameter.shape, generator=self.generator)
                parameter.copy_(drawn / 4)
        self.root.add_module(name, linear)
        return self.step.module(name, source)

    def _neuron(self, i: int, layer: Layer, current: fx.Node) -> fx.Node:
        function, settings = self._definition(i, layer)
        states = [self.states[i, label] for label in _LABELS[layer.kind]]
        node = self.step.call(function, current, *states, **settings)
        node.meta["module"] = f"layer{i}"
        output = self.step.call(getitem, node, 0)
        for item, state in enumerate(states, start=1):
            self.step.next[state.name] = self.step.call(getitem, node, item)
        return output

    def _definition(self, i: int, layer: Layer):  # type: ignore[no-untyped-def] # noqa: ANN202
        number = layer.variant
        charge, reset = _CHARGES[number % 4], _RESETS[number // 3]
        fires = {"charge": charge, "threshold": (1.0, 0.5)[number % 2], "surrogate": _SURROGATE}
        match layer.kind:
            case "lif":
                return neurons.lif, {**fires, "reset": reset, "strict": number % 3 == 0}
            case "learnable_lif":
                self.root.register_parameter(f"decay{i}", nn.Parameter(torch.zeros(WIDTH)))
                attribute = self.step.graph.create_node("get_attr", f"decay{i}")
                decay = neurons.Decay(self.step.call(torch.sigmoid, attribute))
                return neurons.lif, {**fires, "charge": decay, "reset": reset}
            case "delayed_lif":
                kinds = ("subtract", "zero", "zero_state", "none")
                return neurons.delayed_lif, {**fires, "reset": kinds[number % 4]}
            case "adaptive_lif":
                extra = {"rate": 0.25, "jump": 0.5, "reset": reset}
                return neurons.adaptive_lif, {**fires, **extra}
            case "integer_lif":
                settings = {"charge": charge, "threshold": 1.0, "reset": reset, "levels": 3.0}
                return neurons.integer_lif, settings
            case "integrator":
                return neurons.integrator, {"charge": charge}
            case _:
                return neurons.synaptic_current, {"decay": 0.5, "order": _ORDERS[number % 3]}

"""Random programs for property tests: layers, branches, residual adds, feedback, delays, statics.

Every product of a matrix reads multiples of 1/4 and has weights that are multiples of 1/4, so it is
exact in float32 and schedules may be compared bit for bit; what is finer than that (membranes,
synaptic currents) meets elementwise calls and neurons only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, Literal, TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor, fx, nn

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
FUNCTIONS: dict[Kind, Callable[..., tuple[Tensor, ...]]] = {
    "lif": neurons.lif,
    "learnable_lif": neurons.lif,
    "delayed_lif": neurons.delayed_lif,
    "adaptive_lif": neurons.adaptive_lif,
    "integer_lif": neurons.integer_lif,
    "integrator": neurons.integrator,
    "synapse": neurons.synaptic_current,
}
_SURROGATE = Surrogate("atan", (2.0,))
_CHARGES = (neurons.Decay(0.5), neurons.Integrate(), neurons.Leak(2.0), neurons.Relax(2.0))
_RESETS = (neurons.Subtract(), neurons.Subtract(detach=True), neurons.Hard(), neurons.Keep())
_REDUCES = ("stack", "last", "sum", "running_sum")
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
    reduce = draw(st.sampled_from(_REDUCES))
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
        """The layer's output, and whether it is coarse enough to enter a matrix product."""
        coarse = self.coarse[layer.source % len(self.coarse)]
        fine = self.all[layer.other % len(self.all)]
        node, exact = fine, False
        match layer.kind:
            case "linear":
                node = self._linear(f"layer{i}", coarse)
            case "join":
                pair = self.step.call(torch.cat, (coarse, self.coarse[-1]), 1)
                node = self._linear(f"layer{i}", pair, 2 * WIDTH)
            case "add":
                other = self.coarse[layer.other % len(self.coarse)]
                node, exact = self.step.call(torch.add, coarse, other), len(self.coarse) < 4
            case "static":
                node = self.step.call(torch.add, fine, self.same)
            case "memory":
                node, exact = self.states[i, "value"], True
            case "integrator" | "synapse":
                node = self._neuron(i, layer, fine)
            case _:
                node, exact = self._neuron(i, layer, self._linear(f"layer{i}", coarse)), True
        return node, exact

    def _linear(self, name: str, source: fx.Node, width: int = WIDTH) -> fx.Node:
        linear = nn.Linear(width, WIDTH)
        with torch.no_grad():
            for parameter in linear.parameters():
                drawn = torch.randint(-3, 5, parameter.shape, generator=self.generator)
                parameter.copy_(drawn / 4)
        self.root.add_module(name, linear)
        return self.step.module(name, source)

    def _neuron(self, i: int, layer: Layer, current: fx.Node) -> fx.Node:
        function, settings = FUNCTIONS[layer.kind], self._settings(i, layer)
        states = [self.states[i, label] for label in _LABELS[layer.kind]]
        node = self.step.call(function, current, *states, **settings)
        node.meta["module"] = f"layer{i}"
        output = self.step.call(getitem, node, 0)
        for item, state in enumerate(states, start=1):
            self.step.next[state.name] = self.step.call(getitem, node, item)
        return output

    def _settings(self, i: int, layer: Layer) -> dict[str, Any]:
        number = layer.variant
        charge, reset = _CHARGES[number % 4], _RESETS[number // 3]
        fires = {"charge": charge, "threshold": (1.0, 0.5)[number % 2], "surrogate": _SURROGATE}
        strict = {"strict": number % 3 == 0}
        delayed = ("subtract", "zero", "zero_state", "none")[number % 4]
        found: dict[Kind, dict[str, Any]] = {
            "lif": {**fires, "reset": reset, **strict},
            "delayed_lif": {**fires, "reset": delayed},
            "adaptive_lif": {**fires, "rate": 0.25, "jump": 0.5, "reset": reset},
            "integer_lif": {"charge": charge, "threshold": 1.0, "reset": reset, "levels": 3.0},
            "integrator": {"charge": charge},
            "synapse": {"decay": 0.5, "order": _ORDERS[number % 3]},
        }
        if layer.kind != "learnable_lif":
            return found[layer.kind]
        self.root.register_parameter(f"decay{i}", nn.Parameter(torch.zeros(WIDTH)))
        decay: Any = self.step.call(
            torch.sigmoid, self.step.graph.create_node("get_attr", f"decay{i}")
        )
        return {**found["lif"], "charge": neurons.Decay(decay)}

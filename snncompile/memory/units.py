"""A step as a row of units, between any two of which it may be cut, and what each of them costs.

A unit is a component of the dependence graph with the parts that are taken out of what it returns.
Sizes are those of one time step of one sample of the batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snncompile.ir.dependence import Component, components, dependence_graph
from snncompile.ir.operations import is_part
from snncompile.ir.program import Program, is_neuron
from snncompile.memory.levels import Levels, levels


@dataclass(frozen=True)
class Value:
    """What a unit hands to later ones.

    Attributes:
        node: Its node.
        readers: The later units that read it, by position.
        bits: How many bits an element of it takes when it is kept.
        width: How many it takes otherwise.
        kept: Bytes it takes when it is kept.
    """

    node: fx.Node
    readers: tuple[int, ...]
    bits: int
    width: int
    kept: float

    @property
    def last(self) -> int:
        """The last unit that reads it."""
        return max(self.readers)


@dataclass(frozen=True)
class Unit:
    """A component, with what it costs to keep or to run again.

    Attributes:
        nodes: Its nodes.
        values: What later units read of it.
        computed: Bytes of all that it computes, of what it reads from outside the step's units,
            and of the membranes of a neuron at every step.
        largest: Bytes of the largest of these.
        states: Bytes of its states.
        work: Multiplications and additions.
    """

    nodes: tuple[fx.Node, ...]
    values: tuple[Value, ...]
    computed: float
    largest: float
    states: float
    work: float


def units_of(program: Program) -> tuple[Unit, ...]:
    """The units of a program's step, each after those it depends on."""
    grouped = _grouped(program)
    position = {node: i for i, nodes in enumerate(grouped) for node in nodes}
    graph, known = dependence_graph(program), levels(program)
    batch = captured_batch(program)

    def unit(i: int, nodes: Sequence[fx.Node]) -> Unit:
        values: list[Value] = []
        for node in nodes:
            found = {position[user] for user in graph.successors(node) if user in position}
            readers = tuple(sorted(found - {i}))
            size = sum(_bytes(node)) / batch
            if readers and size:
                values.append(_value(node, readers, size, known.get(node)))
        sizes = [size / batch for node in nodes for size in _computed(node)]
        states = sum(sum(_bytes(node)) / batch for node in nodes if node.op == "placeholder")
        work = sum(_work(program, node) for node in nodes) / batch
        total, largest = sum(sizes), max(sizes, default=0.0)
        return Unit(tuple(nodes), tuple(values), total, largest, states, work)

    return tuple(unit(i, nodes) for i, nodes in enumerate(grouped))


def _grouped(program: Program) -> list[list[fx.Node]]:
    """The nodes of every component that runs at every step; parts go with what they are part of."""
    inputs = {spec.name for spec in program.inputs}
    found: list[list[fx.Node]] = []
    home: dict[fx.Node, list[fx.Node]] = {}
    for component in components(program):
        if component.kind == "invariant" or _is_input(component, inputs):
            continue
        (first, *_) = component.nodes
        source: Any = first.args[0] if is_part(first) else None
        if source in home:
            home[source] += component.nodes
        else:
            found.append(list(component.nodes))
        home.update(dict.fromkeys(component.nodes, home.get(source) or found[-1]))
    return found


def _is_input(component: Component, inputs: Iterable[str]) -> bool:
    return component.nodes[0].op == "placeholder" and component.nodes[0].name in inputs


def _value(node: fx.Node, readers: tuple[int, ...], size: float, known: Levels | None) -> Value:
    width = _tensors(node)[0].element_size() * 8
    bits = known.bits if known else width
    return Value(node, readers, bits, width, size * bits / width)


def _computed(node: fx.Node) -> list[float]:
    """Bytes of what a node leaves for a backward pass; those of a neuron are one membrane more."""
    if node.op == "placeholder" or is_part(node):
        return []
    return _bytes(node)[:2] if is_neuron(node) else _bytes(node)


def _bytes(node: fx.Node) -> list[float]:
    return [known_bytes(tensor) for tensor in _tensors(node)]


def known_bytes(tensor: Tensor) -> float:
    """Bytes of a fake tensor, of the captured batch size."""
    return float(prod(map(_known, tensor.shape))) * tensor.element_size()


def _tensors(node: fx.Node) -> list[Tensor]:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _known(size: int | torch.SymInt) -> int:
    """A size as a number; the captured one where it is symbolic."""
    return int(cast("Any", size).node.hint) if isinstance(size, torch.SymInt) else size


def captured_batch(program: Program) -> int:
    """The batch size that the program's shapes were captured with."""
    sizes = [size for node in program.placeholders() for size in node.meta["val"].shape]
    return next((_known(size) for size in sizes if isinstance(size, torch.SymInt)), 1)


def _work(program: Program, node: fx.Node) -> float:
    """Multiplications and additions of a node: of a layer by its weight, else one an element."""
    if node.op == "placeholder" or is_part(node):
        return 0.0
    values = _tensors(node)
    elements = float(prod(map(_known, values[0].shape))) if values else 0.0
    weight = _weight(program, node)
    if weight is None or weight.dim() < 2:  # noqa: PLR2004
        return elements
    return 2 * elements * weight.numel() / weight.shape[0]


def _weight(program: Program, node: fx.Node) -> Tensor | None:
    if node.op == "call_module":
        weight = getattr(program.module(node), "weight", None)
        return weight if isinstance(weight, Tensor) else None
    second: Any = node.args[1] if len(node.args) > 1 else None
    value = second.meta.get("val") if isinstance(second, fx.Node) else None
    named = str(getattr(node.target, "__name__", "")) in _WEIGHED
    return value if named and isinstance(value, Tensor) else None


_WEIGHED = frozenset(("linear", "matmul", "conv1d", "conv2d", "conv3d"))

"""Parts a step into the sweep over time and the sweep back, and chooses what is kept in between.

The sweep back needs values of the sweep before it. Which of them are kept at every step and which
are rebuilt from those is a minimum cut in the step's graph: between the operands, which only the
sweep forward knows, and the derivatives. One float an element and step is the rule: LIF keeps its
charged membrane, with a learnable decay its current and the membrane before the step.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import networkx as nx
import torch
from torch import fx

from snncompile.kernels.arithmetic import is_exact
from snncompile.kernels.step import Definition, NotElementwiseError, Step

Source: TypeAlias = Literal["current", "before", "sequence", "saved"]

_Vertex: TypeAlias = tuple[fx.Node, Literal["in", "out"]] | Literal["operands", "derivatives"]
_COSTS: Final = {"saved": 1.0, "current": 0.75, "sequence": 0.5, "before": 0.5}
"""What keeping a float costs: a current need not be written, a wanted result is kept anyway."""


class Kept(NamedTuple):
    """A value that the sweep back reads at every step.

    Attributes:
        node: The value.
        source: Where it is: "current", "sequence" (a wanted result), "before" (a state before the
            step, read one step late from the wanted sequence of that state) or "saved" (written
            for this purpose).
        position: Of the result, for a sequence; of the state, from 1, for "before".
    """

    node: fx.Node
    source: Source
    position: int = 0


@dataclass(frozen=True)
class Sweeps:
    """What the two loops over time compute.

    Attributes:
        definition: Of the kernel.
        step: The traced step.
        uniform: Nodes that depend on nothing but numbers and scalar settings.
        kept: What the sweep back reads, beyond settings and gradients.
    """

    definition: Definition
    step: Step
    uniform: frozenset[fx.Node]
    kept: tuple[Kept, ...]

    @property
    def states(self) -> tuple[fx.Node, ...]:
        """Placeholders of the states before the step."""
        return self.step.operands[1 : 1 + self.definition.states]

    @property
    def settings(self) -> tuple[fx.Node, ...]:
        """Placeholders of the tensor settings."""
        return self.step.operands[1 + self.definition.states :]

    @property
    def saved(self) -> tuple[fx.Node, ...]:
        """What the sweep forward writes for the sweep back only."""
        return tuple(kept.node for kept in self.kept if kept.source == "saved")


def sweeps(definition: Definition, step: Step) -> Sweeps:
    """Part a step.

    Raises:
        NotElementwiseError: Its results depend on operations whose rounding is not fixed.
    """
    rough = [node for node in needed(step.results, ()) if not is_exact(node)]
    if rough:
        raise NotElementwiseError(f"the rounding of {rough[0].target} is not fixed")
    uniform = _uniform(definition, step)
    return Sweeps(definition, step, uniform, _kept(definition, step, uniform))


def needed(ends: Iterable[fx.Node | None], given: Collection[fx.Node]) -> list[fx.Node]:
    """Calls to compute, in order, to have `ends` when `given` is known already."""
    found: dict[fx.Node, None] = {}
    waiting = [end for end in ends if end is not None]
    while waiting:
        node = waiting.pop()
        if node not in found and node not in given and node.op != "placeholder":
            found[node] = None
            waiting += node.all_input_nodes
    return sorted(found)


def _uniform(definition: Definition, step: Step) -> frozenset[fx.Node]:
    settings = step.operands[1 + definition.states :]
    found = {node for node, one in zip(settings, definition.scalars, strict=True) if one}
    for node in step.graph.nodes:
        if node.op == "call_function" and found.issuperset(node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def _kept(definition: Definition, step: Step, uniform: Collection[fx.Node]) -> tuple[Kept, ...]:
    """The cheapest values from which the sweep back can rebuild all others it needs."""
    backward = _reached_from(step.gradients, step.graph)
    free = {*uniform, *step.operands[1 + definition.states :], *step.gradients}
    flow: nx.DiGraph[_Vertex] = nx.DiGraph()
    flow.add_nodes_from(("operands", "derivatives"))
    forward: set[fx.Node] = set()
    for node in needed(asked(definition, step), free):
        for operand in node.all_input_nodes:
            if operand not in free and operand not in backward:
                forward.add(operand)
                end: _Vertex = "derivatives" if node in backward else (node, "in")
                flow.add_edge((operand, "out"), end)
    places = _places(definition, step)
    for node in forward:
        kept = places.get(node, Kept(node, "saved"))
        flow.add_edge((node, "in"), (node, "out"), capacity=_cost(kept))
        if node.op == "placeholder":
            flow.add_edge("operands", (node, "in"))
    parts = cast("Any", nx).minimum_cut(flow, "operands", "derivatives")[1]
    cut = sorted(n for n in forward if (n, "in") in parts[0] and (n, "out") in parts[1])
    return tuple(places.get(node, Kept(node, "saved")) for node in cut)


def asked(definition: Definition, step: Step) -> list[fx.Node | None]:
    """The derivatives to compute: those that are needed, and of the states, which carry others."""
    states = range(1, 1 + definition.states)
    pairs = zip(step.derivatives, definition.differentiable, strict=False)
    return [node for i, (node, needs) in enumerate(pairs) if needs or i in states]


def _reached_from(starts: Iterable[fx.Node], graph: fx.Graph) -> set[fx.Node]:
    found = set(starts)
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _places(definition: Definition, step: Step) -> dict[fx.Node, Kept]:
    """Where values are that are kept anyway, or need not be written."""
    places = {step.operands[0]: Kept(step.operands[0], "current")}
    for position in definition.wanted:
        result = step.results[position]
        places[result] = Kept(result, "sequence", position)
        if position:
            state = step.operands[position]
            places[state] = Kept(state, "before", position)
    return places


def _cost(kept: Kept) -> float:
    """Per element and step; a truth value takes a quarter of a float."""
    share = 0.25 if kept.node.meta["val"].dtype == torch.bool else 1.0
    return _COSTS[kept.source] * share

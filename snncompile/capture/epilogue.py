"""Writes what is computed after the steps, on demand from the leaves of the model's result."""

from abc import ABC, abstractmethod

from torch import fx

from snncompile.capture.builder import ProgramBuilder, Reduction
from snncompile.capture.graphs import copy_call


class EpilogueWriter(ABC):
    """Writes what is computed after the steps, on demand from the result's leaves."""

    def __init__(self, builder: ProgramBuilder) -> None:
        self.builder = builder
        self.graph = fx.Graph()
        self._env: dict[fx.Node, fx.Node] = {}
        self._outputs: dict[int, fx.Node] = {}
        self._extras: dict[int, fx.Node] = {}

    @abstractmethod
    def special(self, node: fx.Node) -> fx.Node | None:
        """A node of the epilogue for a trace node that the steps compute; None for any other."""

    @abstractmethod
    def runs_before(self, node: fx.Node) -> bool:
        """Whether a trace node does not depend on the steps."""

    def value(self, node: fx.Node) -> fx.Node:
        """The node of the epilogue that computes a node of the trace."""
        if node not in self._env:
            self._env[node] = self._make(node)
        return self._env[node]

    def _make(self, node: fx.Node) -> fx.Node:
        special = self.special(node)
        if special is not None:
            return special
        if node.op == "get_attr":
            made = self.graph.create_node("get_attr", node.target)
            made.meta.update(node.meta)
            return made
        if self.runs_before(node):
            return self._from_prologue(node)
        return copy_call(self.graph, node, self.value)

    def output(self, value: fx.Node, reduction: Reduction, axis: int, seen: object) -> fx.Node:
        """The placeholder for an output of the steps."""
        position = self.builder.output(value, reduction, axis)
        if position not in self._outputs:
            node = self._placeholder(f"out{position}", [*self._outputs.values()])
            node.meta["val"] = seen
            self._outputs[position] = node
        return self._outputs[position]

    def _from_prologue(self, node: fx.Node) -> fx.Node:
        position = self.builder.add_extra(node)
        if position not in self._extras:
            before = [*self._outputs.values(), *self._extras.values()]
            made = self._placeholder(f"{node.name}_before", before)
            made.meta.update(node.meta)
            self._extras[position] = made
        return self._extras[position]

    def _placeholder(self, name: str, before: list[fx.Node]) -> fx.Node:
        """A placeholder right after the last of those before it, else in front of everything."""
        if before:
            with self.graph.inserting_after(before[-1]):
                return self.graph.placeholder(name)
        first = next(iter(self.graph.nodes), None)
        if first is None:
            return self.graph.placeholder(name)
        with self.graph.inserting_before(first):
            return self.graph.placeholder(name)

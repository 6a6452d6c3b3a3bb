"""Writes what is computed after the steps, on demand from the leaves of the model's result."""

from torch import fx

from snncompile.capture.builder import ProgramBuilder, Reduction, copy_call


class EpilogueWriter:
    """Writes what is computed after the steps, on demand from the result's leaves."""

    def __init__(self, builder: ProgramBuilder) -> None:
        self.builder = builder
        self.graph = fx.Graph()
        self._env: dict[fx.Node, fx.Node] = {}
        self._outputs: dict[int, fx.Node] = {}
        self._extras: dict[int, fx.Node] = {}

    def special(self, node: fx.Node) -> fx.Node | None:
        """A node of the epilogue for a trace node that the steps compute; None for any other."""
        raise NotImplementedError

    def runs_before(self, node: fx.Node) -> bool:
        """Whether a trace node does not depend on the steps."""
        raise NotImplementedError

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
            with self.graph.inserting_before(self._first_extra()):
                node = self.graph.placeholder(f"out{position}")
            node.meta["val"] = seen
            self._outputs[position] = node
        return self._outputs[position]

    def _first_extra(self) -> fx.Node:
        after_outputs = list(self._outputs.values())
        nodes = list(self.graph.nodes)
        following = nodes.index(after_outputs[-1]) + 1 if after_outputs else 0
        return nodes[following] if following < len(nodes) else self.graph._root

    def _from_prologue(self, node: fx.Node) -> fx.Node:
        position = self.builder.extra(node)
        if position not in self._extras:
            last = [*self._outputs.values(), *self._extras.values()]
            nodes = list(self.graph.nodes)
            following = nodes.index(last[-1]) + 1 if last else 0
            place = nodes[following] if following < len(nodes) else self.graph._root
            with self.graph.inserting_before(place):
                made = self.graph.placeholder(f"{node.name}_before")
            made.meta.update(node.meta)
            self._extras[position] = made
        return self._extras[position]

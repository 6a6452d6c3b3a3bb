"""Values over time: what a node of the step is in the sequence form of a file.

A value [N, ...] of one step is a sequence [T, N, ...], or folded [T * N, ...] so that layers run
once over all steps, or invariant [N, ...], the same at every step. A `Timeline` knows which of
these a node already is, and writes the nodes that turn one into another, each at most once.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import SymInt, fx

from snncompile.export.emitter import Emitter, Written
from snncompile.export.graph import GraphWriter, Value

Layer: TypeAlias = dict[fx.Node, Written]


class Timeline:
    """The values of a step's nodes over all steps.

    Attributes:
        graph: The main graph.
        steps: The number of steps, as the name of an int64 vector of one element.
        unrolled: The number of steps, where every one is written out; else None.
    """

    def __init__(
        self, emitter: Emitter, graph: GraphWriter, steps: str, unrolled: int | None = None
    ) -> None:
        self.emitter = emitter
        self.graph = graph
        self.steps = steps
        self.unrolled = unrolled
        self._invariant: Layer = {}
        self._folded: Layer = {}
        self._sequence: Layer = {}

    def put_invariant(self, node: fx.Node, value: Written) -> None:
        """Note a value that is the same at every step."""
        self._invariant[node] = value

    def put_folded(self, node: fx.Node, value: Written) -> None:
        """Note a value whose steps are laid end to end."""
        self._folded[node] = value

    def put_sequence(self, node: fx.Node, value: Written) -> None:
        """Note a sequence."""
        self._sequence[node] = value

    def is_invariant(self, node: fx.Node) -> bool:
        """Whether the node is the same at every step, and not a weight."""
        return node in self._invariant

    def invariant(self, node: fx.Node) -> object:
        """A weight, or a value that is the same at every step."""
        return self.emitter.known(node) if self.emitter.is_known(node) else self._invariant[node]

    def sequence(self, node: fx.Node) -> Written:
        """The node as a sequence, [T, N, ...]."""
        if node not in self._sequence:
            constant = node not in self._folded
            source = self._constant(node) if constant else self._folded[node]
            change = self._repeated if constant else self._unfolded
            self._sequence[node] = self._each(change, source, node)
        return self._sequence[node]

    def folded(self, node: fx.Node) -> Written:
        """The node with its steps laid end to end, [T * N, ...]."""
        if node not in self._folded:
            self._folded[node] = self._each(self._flattened, self.sequence(node), node)
        return self._folded[node]

    def sequence_of(self, node: fx.Node) -> Value:
        """A node that is one tensor, as a sequence."""
        value = self.sequence(node)
        assert isinstance(value, Value)
        return value

    def _constant(self, node: fx.Node) -> Written:
        if not self.emitter.is_known(node):
            return self._invariant[node]
        weight = self.emitter.known(node)
        return Value(self.graph.weight(weight.name, weight.data), weight.data)

    def _each(self, change: Callable[[Value], str], value: Written, node: fx.Node) -> Written:
        self.graph.scope = node.name
        if isinstance(value, tuple):
            return tuple(Value(change(item), item.like) for item in value)
        return Value(change(value), value.like)

    def _flattened(self, sequence: Value) -> str:
        sizes = self._sizes(sequence, 1)
        return self.graph.op("Reshape", sequence.name, self.graph.shape([-1, *sizes]))

    def _unfolded(self, folded: Value) -> str:
        sizes = self._sizes(folded, 0)
        time = Value(self.steps, folded.like)
        return self.graph.op("Reshape", folded.name, self.graph.shape([time, -1, *sizes]))

    def _repeated(self, value: Value) -> str:
        shape = self.graph.op("Concat", self.steps, self.graph.op("Shape", value.name), axis=0)
        return self.graph.op("Expand", value.name, shape)

    def _sizes(self, value: Value, leading: int) -> list[int | Value]:
        """The sizes behind the batch; read off the value where they are symbolic."""
        sizes: list[int | Value] = []
        for axis, size in enumerate(value.tensor.shape[1:], start=1 + leading):
            if isinstance(size, SymInt):
                measured = self.graph.op("Shape", value.name, start=axis, end=axis + 1)
                sizes.append(Value(measured, size))
            else:
                sizes.append(size)
        return sizes

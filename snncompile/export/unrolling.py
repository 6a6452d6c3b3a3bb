"""Writes part of a step once for every time step, without control flow.

What a Scan does in one node, for a number of steps that is known, and for runtimes that have none:
every step reads its slice of the sequences, and its states are the values of the step before.
"""

import torch
from torch import fx

from snncompile.export.emitter import Emitter, Written
from snncompile.export.graph import Value
from snncompile.export.scan import Part
from snncompile.export.synapses import Weight
from snncompile.export.timeline import Timeline


class Unroller:
    """Writes one part, step by step."""

    def __init__(self, emitter: Emitter, timeline: Timeline, steps: int) -> None:
        self.emitter = emitter
        self.timeline = timeline
        self.steps = steps
        self._env: dict[fx.Node, Written] = {}

    def write(self, part: Part, initial: dict[fx.Node, str]) -> dict[fx.Node, str]:
        """Append the steps to the main graph.

        Args:
            part: What loops.
            initial: The value of every state before the first step.

        Returns:
            The value of every state after the last step. The sequences of the exports are put on
            the timeline.
        """
        states = {node: Value(initial[node], node.meta["val"]) for node in part.states}
        reads = part.reads(self.timeline)
        sequences = {node: self.timeline.sequence_of(node) for node in reads}
        made: dict[fx.Node, list[str]] = {node: [] for node in part.exports}
        for step in range(self.steps):
            self._env = {**states, **{n: self._at(s, step) for n, s in sequences.items()}}
            for node in part.nodes:
                self._env[node] = self.emitter.write(self.timeline.graph, node, self._lookup)
            for node, values in made.items():
                values.append(self._value(node).name)
            states = {node: self._value(following) for node, following in part.states.items()}
        for node, values in made.items():
            stacked = Value(self._stacked(node, values), node.meta["val"])
            self.timeline.put_sequence(node, stacked)
        return {node: value.name for node, value in states.items()}

    def _lookup(self, node: fx.Node) -> object:
        return self._env[node] if node in self._env else self.timeline.invariant(node)

    def _value(self, node: fx.Node) -> Value:
        value = self._lookup(node)
        assert isinstance(value, Value)
        if not isinstance(value, Weight):
            return value
        return Value(self.timeline.graph.weight(value.name, value.data), value.data)

    def _at(self, sequence: Value, step: int) -> Value:
        graph = self.timeline.graph
        index = graph.constant(step, torch.int64)
        return Value(graph.op("Gather", sequence.name, index, axis=0), sequence.like)

    def _stacked(self, node: fx.Node, values: list[str]) -> str:
        graph = self.timeline.graph
        graph.scope = node.name
        rows = [graph.op("Unsqueeze", value, graph.ints(0)) for value in values]
        return graph.op("Concat", *rows, axis=0)

"""Writes one module four times into a step, once a window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from snncompile.ir.program import Program, State, is_neuron, value_of
from snncompile.ir.windows import Window, cut
from snncompile.windowing.encoder import Encoder
from snncompile.windowing.handover import Handover
from snncompile.windowing.modules import Module, is_convolution, map_size, readers
from snncompile.windowing.recording import record
from snncompile.windowing.states import start, start_like

Copies = dict[fx.Node, fx.Node]
"""What stands in the new step for nodes of the old one."""


@dataclass(frozen=True)
class Windowed:
    """A module that is to be written window by window.

    Attributes:
        program: The program.
        graph: The new step.
        module: The module.
        states: All states of the old step.
        copies: What stands for what the module reads.
        encoded: Which of that its convolutions read as spikes of the encoder.
        encoder: Makes those.
    """

    program: Program
    graph: fx.Graph
    module: Module
    states: Mapping[fx.Node, State]
    copies: Mapping[fx.Node, fx.Node]
    encoded: frozenset[fx.Node]
    encoder: Encoder

    def write(self, places: Sequence[Window], handover: Handover) -> list[Copies]:
        """Write the windows in order.

        Args:
            places: The windows.
            handover: What each receives as states.

        Returns:
            For every window the copies of the module's nodes.
        """
        done: list[Copies] = []
        for place in places:
            done.append(self._window(place, handover, done))
        return done

    def _window(self, place: Window, handover: Handover, done: Sequence[Copies]) -> Copies:
        entries = [node for node in self.module.entries() if node not in self.states]
        copies = {node: self._cut(node, place) for node in entries}
        spikes = {node: self._spikes(node, copies[node], place) for node in self._synaptic(entries)}
        self._hand(copies, handover, done)
        for node in self.module.nodes:
            if is_neuron(node):
                start(node, self.states, copies)
            seen = {**copies, **spikes} if is_convolution(self.program, node) else copies
            copies[node] = self.graph.node_copy(node, seen.__getitem__)
        return copies

    def _cut(self, node: fx.Node, place: Window) -> fx.Node:
        whole = self.copies[node]
        is_map = map_size(node) == self.module.size
        return record(self.graph, cut, whole, place) if is_map else whole

    def _synaptic(self, entries: Sequence[fx.Node]) -> list[fx.Node]:
        """What is encoded, if a convolution of the module reads it."""
        read = [n.all_input_nodes[0] for n in self.module.nodes if is_convolution(self.program, n)]
        return [node for node in entries if node in self.encoded and node in read]

    def _spikes(self, node: fx.Node, piece: fx.Node, place: Window) -> fx.Node:
        channels = int(value_of(node).shape[1])
        return self.encoder.encode(piece, (channels, place.height, place.width))

    def _hand(self, copies: Copies, handover: Handover, done: Sequence[Copies]) -> None:
        """Hand over states; those of a neuron that start now do so when its current is there."""
        pieces = [v for node, v in copies.items() if map_size(node) == self.module.size]
        for state in self.module.entries():
            if state not in self.states:
                continue
            given = handover.received(state, done)
            if given is None and not self._is_own(state):
                given = start_like(state, self.states[state], pieces[0])
            if given is not None:
                copies[state] = given

    def _is_own(self, state: fx.Node) -> bool:
        """Whether only a neuron reads a state, as its own."""
        return all(is_neuron(user) and state in user.args[1:] for user in readers(state))

"""What a window receives as state: from the window before it, and from the layer below.

Time is gone, so a neuron's membrane is that of the last window where it was that of the last step.
Two rules are in the authors' code, with P the projection:

"windows", for convolutional modules of two layers, whose membranes c1 and c2 start anew in every
module: c1 goes from window to window as it is, and window k + 1 receives P(c1, c2) of window k in
its second layer.

"layers", for recurrent modules of one layer: the membranes m1 ... m4 that the layer below left in
its windows are handed up, and with m1' ... those of this layer its windows receive

    P(m1, m2),    P(m1', m2),    P(m3, m2'),    P(m4, m3').

A map below of twice the sides is averaged 2 by 2 (the authors merge it by a Linear, which would be
a new parameter here); one with other channels or sides counts as zero, as it does below the first
layer. Every other state, such as spikes that are fed back, goes from window to window as
it is.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import fx
from torch.nn import functional

from snncompile.ir.program import Program, value_of
from snncompile.ir.windows import Window, cut, project, stitch
from snncompile.windowing.modules import Module, map_size
from snncompile.windowing.recording import record
from snncompile.windowing.settings import Settings

Copies: TypeAlias = Mapping[fx.Node, fx.Node]
"""For the nodes of a module, their copies in one window."""


class Below(NamedTuple):
    """The membranes that a layer left in its windows, as one map.

    Attributes:
        membranes: The map, in the new graph.
        like: The membrane in the old graph, for its shape.
    """

    membranes: fx.Node
    like: fx.Node


class Handover:
    """Says what the windows of one module receive.

    Args:
        program: The program.
        module: The module.
        places: Its windows.
        settings: Which rule and which projection.
        below: What the layer below left, if there is one.
    """

    def __init__(
        self,
        program: Program,
        module: Module,
        places: Sequence[Window],
        settings: Settings,
        below: Below | None,
    ) -> None:
        self._places = places
        self._settings = settings
        self._following = following = program.next_states()
        states = [neuron.args[1] for neuron in module.neurons]
        self._membranes = [s for s in states if isinstance(s, fx.Node) and s.name in following]
        self._below = None
        if below is not None and settings.handover == "layers" and self._membranes:
            self._below = _resized(below, self._following[self._membranes[0].name])

    def received(self, state: fx.Node, done: Sequence[Copies]) -> fx.Node | None:
        """What the next window receives as a state.

        Args:
            state: The state's placeholder in the old graph.
            done: The copies in the windows so far.

        Returns:
            The value in the new graph; None when the state starts from its initial value.
        """
        own = done[-1][self._following[state.name]] if done else None
        if state in self._membranes and self._settings.handover == "layers":
            return self._from_below(own, len(done))
        lower = self._lower(state)
        if own is None or lower is None:
            return own
        return self._projected(done[-1][lower], own)

    def left(self, done: Sequence[Copies]) -> Below | None:
        """What this module leaves to the layer above."""
        if self._settings.handover != "layers" or not self._membranes:
            return None
        like = self._following[self._membranes[0].name]
        pieces = [copies[like] for copies in done]
        return Below(record(pieces[0].graph, stitch, pieces, self._places), like)

    def _lower(self, state: fx.Node) -> fx.Node | None:
        """The membrane of the layer before in the module, if it has the same shape."""
        position = self._membranes.index(state) if state in self._membranes else 0
        if position == 0:
            return None
        first, second = (self._following[s.name] for s in self._membranes[position - 1 :][:2])
        return first if _channels(first) == _channels(second) else None

    def _from_below(self, own: fx.Node | None, window: int) -> fx.Node | None:
        if own is None:
            return None if self._below is None else self._projected(self._cut(0), self._cut(1))
        zero = self._below is None
        under = record(own.graph, torch.zeros_like, own) if zero else self._cut(window)
        return self._projected(*((own, under) if window == 1 else (under, own)))

    def _cut(self, window: int) -> fx.Node:
        assert self._below is not None
        return record(self._below.graph, cut, self._below, self._places[window])

    def _projected(self, first: fx.Node, second: fx.Node) -> fx.Node:
        return record(first.graph, project, first, second, self._settings.projection)


def _resized(below: Below, like: fx.Node) -> fx.Node | None:
    """The membranes below on the map of a layer: merged 2 by 2 if it has half the sides."""
    if _channels(below.like) != _channels(like):
        return None
    theirs, ours = map_size(below.like), map_size(like)
    if theirs == ours:
        return below.membranes
    if theirs is None or ours is None or theirs != (2 * ours[0], 2 * ours[1]):
        return None
    return record(below.membranes.graph, functional.avg_pool2d, below.membranes, 2)


def _channels(node: fx.Node) -> int:
    return int(value_of(node).shape[1])

"""Recognises what the calls after a loop do with the values of its steps."""

import operator
from collections.abc import Callable

import torch
from torch import SymInt, Tensor, fx

from snncompile.capture.builder import ProgramBuilder
from snncompile.capture.epilogue import EpilogueWriter
from snncompile.capture.graphs import descendants
from snncompile.capture.loop import Read
from snncompile.capture.rolling import Rolled
from snncompile.capture.sizes import known_size
from snncompile.capture.sources import Earlier, Here
from snncompile.capture.starts import is_zero
from snncompile.capture.trace import Trace


class LoopEpilogue(EpilogueWriter):
    """The epilogue of a rolled loop."""

    def __init__(
        self,
        builder: ProgramBuilder,
        rolled: Rolled,
        made: list[fx.Node],
        before: Callable[[int, fx.Node], fx.Node | None],
    ) -> None:
        super().__init__(builder)
        self.rolled, self.made, self.before = rolled, made, before
        self.steps = len(rolled.steps)
        self.after = descendants(rolled.place)
        self.needs_count = False

    def runs_before(self, node: fx.Node) -> bool:
        """Whether a trace node does not depend on the steps; a list of such may have T items."""
        before = node not in self.after
        self.needs_count |= before and node.target in {torch.stack, torch.cat, torch.concat}
        return before

    def follows_input(self, trace: Trace) -> bool:
        """Whether the loop is as long as a sequence whose length the model asked for."""
        reads = self.rolled.loop.reads.values()
        return any(_follows(read, self.steps, trace.measured) for read in reads)

    def special(self, node: fx.Node) -> fx.Node | None:
        """Stacks, lists, running sums and last values of the steps."""
        if node in self.rolled.place:
            return self._one_step(node)
        listed = self._listed(node)
        if listed is not None and node.target is torch.stack:
            value: Tensor = node.meta["val"]
            return self.output(listed, "stack", _axis(node) % value.dim(), value)
        if listed is not None and node.target in {torch.cat, torch.concat}:
            return self._concatenated(node, listed)
        summed = self._summed(node)
        if summed is not None:
            return self.output(summed, "running_sum", 0, node.meta["val"])
        return None

    def _one_step(self, node: fx.Node) -> fx.Node:
        k, j = self.rolled.place[node]
        accumulated = self._accumulated(j) if k == self.steps - 1 else None
        if accumulated is not None:
            return self.output(accumulated, "running_sum", 0, node.meta["val"])
        if k == self.steps - 1:
            return self.output(self.made[j], "last", 0, node.meta["val"])
        self.needs_count = True
        stacked = self.output(self.made[j], "stack", 0, None)
        picked = self.graph.call_function(operator.getitem, (stacked, k))
        picked.meta["val"] = node.meta["val"]
        return picked

    def _accumulated(self, j: int) -> fx.Node | None:
        """What ``total = total + value`` adds up from zero, when nothing else reads the total."""
        node, key = self.rolled.body[j], Earlier(j, 1)
        sources = self.rolled.sources[j]
        if node.target is not operator.add or key not in sources or len(sources) != 2:  # noqa: PLR2004
            return None
        readers = sum(key in found or Here(j) in found for found in self.rolled.sources)
        if readers != 1 or not is_zero(self.rolled.initial.get(key, 0.0)):
            return None
        other = sources[1 - sources.index(key)]
        return self.made[other.position] if isinstance(other, Here) else None

    def _listed(self, node: fx.Node) -> fx.Node | None:
        """The step's node whose values of all steps, in order, are the list a call is given."""
        items = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else []
        return self._all_steps(list(items))

    def _all_steps(self, items: list[object]) -> fx.Node | None:
        """What a list holds: a value of every step, or that value before every step."""
        nodes = [item for item in items if isinstance(item, fx.Node)]
        if len(items) != self.steps or len(nodes) != self.steps:
            return None
        initial = nodes[0] if nodes[0] not in self.rolled.place else None
        later = nodes[1:] if initial is not None else nodes
        places = [self.rolled.place.get(node, (-1, -1)) for node in later]
        positions = {position for _, position in places}
        if len(positions) != 1 or [step for step, _ in places] != list(range(len(places))):
            return None
        position = positions.pop()
        return self.made[position] if initial is None else self.before(position, initial)

    def _concatenated(self, node: fx.Node, listed: fx.Node) -> fx.Node:
        stacked = self.output(listed, "stack", 0, None)
        parts = self.graph.call_function(torch.unbind, (stacked, 0))
        joined = self.graph.call_function(torch.cat, (parts, _axis(node)))
        joined.meta["val"] = node.meta["val"]
        return joined

    def _summed(self, node: fx.Node) -> fx.Node | None:
        """The step's node whose values a chain of additions adds up, from the first step on."""
        items: list[object] = []
        while node.target is operator.add and len(items) < self.steps:
            left, right = node.args
            if left == 0 or right == 0:
                return self._all_steps([right if left == 0 else left, *items])
            items.insert(0, right)
            if not isinstance(left, fx.Node):
                return None
            if left in self.rolled.place:
                return self._all_steps([left, *items])
            node = left
        return None


def _axis(node: fx.Node) -> int:
    """The axis along which a stack or a concatenation puts what it is given."""
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    assert isinstance(axis, int)
    return axis


def _follows(read: Read, steps: int, measured: set[fx.Node]) -> bool:
    """Whether the loop is as long as the axis it reads because Python asked for that length.

    Asking turns a symbolic size into a number; an axis whose size was a number all along says
    only whether the model looked at its source's shape.
    """
    size = read.source.meta["val"].shape[read.axis]
    if isinstance(size, SymInt):
        return known_size(size) == steps
    return size == steps and read.source in measured

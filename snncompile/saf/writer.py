"""Writes a new step graph on demand: a value is made when something reads it, a state with it."""

from collections.abc import Callable, Iterator
from itertools import count
from operator import getitem
from typing import Any

import torch
from torch import fx

from snncompile.ir.accumulation import accumulate
from snncompile.ir.charges import Charge
from snncompile.ir.program import Program, State

ONE = "one"
"""The constant 1; its accumulation counts the steps, with a leak."""


class Writer:
    """A step graph in the making, and its states.

    Args:
        program: The program whose step it replaces.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = fx.Graph()
        self.states: list[State] = []
        self._pending: list[Callable[[], fx.Node]] = []
        self._last: fx.Node | None = None
        self.inputs: dict[fx.Node, fx.Node] = {}
        for old in program.placeholders()[: len(program.inputs)]:
            self.inputs[old] = self._placeholder(old.name)
            self.inputs[old].meta = dict(old.meta)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:  # noqa: ANN401
        """A call of a function."""
        return self.graph.call_function(function, args, kwargs)

    def state(self, state: State, following: Callable[[], fx.Node]) -> fx.Node:
        """A state.

        Args:
            state: Its label (a number is added if there is one already), start and shape.
            following: Makes its next value, once everything that reads it is written.
        """
        taken = {other.label for other in self.states}
        label = next(name for name in _numbered(state.label) if name not in taken)
        node = self._placeholder(label.replace(".", "_"))
        self.states.append(State(node.name, label, state.initial, state.shape, state.carried))
        self._pending.append(following)
        return node

    def accumulated(self, value: fx.Node, like: State, charge: Charge) -> tuple[fx.Node, fx.Node]:
        """A value's accumulation before this step and after it, with a state of its own.

        Args:
            value: The value.
            like: A state with the label, shape and life that the accumulation's gets.
            charge: Its decay.
        """
        made: list[fx.Node] = []
        before = self.state(like, lambda: made[0])
        neuron = self.call(accumulate, value, before, charge=charge)
        after = self.call(getitem, neuron, 0)
        made.append(self.call(getitem, neuron, 1))
        return before, after

    def one(self) -> fx.Node:
        """The constant 1."""
        self.program.constants.setdefault(ONE, torch.tensor(1.0))
        return self.graph.get_attr(ONE)

    def finish(self, outputs: tuple[fx.Node, ...]) -> None:
        """Write what the states become, then put the new step in the old one's place."""
        following: list[fx.Node] = []
        while len(following) < len(self._pending):
            following.append(self._pending[len(following)]())
        self.graph.output((outputs, tuple(following)))
        self._forget_initial_values()
        self.program.step = self.graph
        self.program.states = tuple(self.states)

    def _forget_initial_values(self) -> None:
        """Let the prologue return what the remaining states start from, in their order."""
        if self.program.prologue is None:
            return
        node = self.program.prologue.output_node()
        returned: Any = node.args[0]
        first = len(self.program.inputs)
        computed = [
            state.initial for state in self.program.states if isinstance(state.initial, str)
        ]
        values = {value.name: value for value in returned[first : first + len(computed)]}
        kept = [values[state.initial] for state in self.states if isinstance(state.initial, str)]
        node.args = ((*returned[:first], *kept, *returned[first + len(computed) :]),)

    def _placeholder(self, name: str) -> fx.Node:
        with self.graph.inserting_after(self._last):
            self._last = self.graph.placeholder(name)
        return self._last


def _numbered(label: str) -> Iterator[str]:
    """``label``, ``label_1``, ``label_2``, ..."""
    yield label
    yield from (f"{label}_{number}" for number in count(1))

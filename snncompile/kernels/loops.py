"""What the two loops of a kernel do, in whatever language they are printed.

A sweep reads and writes arrays, which callers hand over in the order in which they are declared
here. An array has a row for every step, or one row. States, and in the sweep back their gradients,
are carried from step to step.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import fx

from snncompile.kernels import arithmetic
from snncompile.kernels.sweep import Kept, Sweeps, asked, needed

ZERO = "real(0.0)"


class Printer(ABC):
    """One function of a kernel in the making; a subclass knows the language.

    Attributes:
        sweeps: What the kernel computes.
        text_of: For every node that has a value by now, the expression for it.
    """

    def __init__(self, sweeps: Sweeps) -> None:
        self.sweeps = sweeps
        self.text_of: dict[fx.Node, str] = {}

    def spelled(self, text: str) -> str:
        """An expression as the language spells it; C reads expressions as they are."""
        return text

    @abstractmethod
    def array(
        self, name: str, *, steps: bool = False, truth: bool = False, optional: bool = False
    ) -> None:
        """Declare the next array.

        Args:
            name: Of the array.
            steps: It has a row for every step; otherwise one row.
            truth: It holds truth values.
            optional: Callers may leave it out: it reads as zeros and is not written.
        """

    @abstractmethod
    def element(self, name: str) -> str:
        """The element of an array in the step's row."""

    @abstractmethod
    def scalar(self, name: str) -> str:
        """Declare the next array, which holds one number; returns that number."""

    @abstractmethod
    def late(self, name: str, initial: str) -> str:
        """Declare two arrays: rows that are read a step late, and the row before the first step."""

    @abstractmethod
    def carry(self, first: str, last: str) -> str:
        """What the step before handed on; an array's element `first` for the first step run.

        The last step leaves what it hands on in the array `last`.
        """

    @abstractmethod
    def hand_on(self, last: str, text: str) -> None:
        """Give a value to the next step to run."""

    @abstractmethod
    def store(self, name: str, text: str) -> None:
        """Write an element into the step's row."""

    @abstractmethod
    def let(self, node: fx.Node, text: str, *, once: bool) -> None:
        """Give a node's value a name, ``v_...``; before all steps, for all elements, if `once`."""

    @abstractmethod
    def total(self, j: int, text: str) -> None:
        """Declare where the gradient of setting `j` goes, and add a step's share to it.

        It is summed over time in double precision; over elements too if the setting is a scalar.
        """

    def define(self, node: fx.Node, text: str, *, once: bool = False) -> None:
        """Give a node's value a name, unless it has one."""
        if node not in self.text_of:
            self.let(node, text, once=once)
            self.text_of[node] = f"v_{node.name}"

    def settings(self) -> None:
        """Declare and read the settings."""
        for j, node in enumerate(self.sweeps.settings):
            if self.sweeps.definition.scalars[j]:
                self.text_of[node] = self.scalar(f"setting{j}")
            else:
                self.array(f"settings{j}")
                self.define(node, self.element(f"settings{j}"))

    def compute(self, ends: Iterable[fx.Node | None]) -> None:
        """Write what `ends` need, outside of all loops where it is the same for all elements."""
        for node in needed(ends, self.text_of):
            if arithmetic.name_of(node) in arithmetic.IDENTITIES:
                self.text_of[node] = self.text_of[node.all_input_nodes[0]]
            else:
                text = self.spelled(arithmetic.expression(node, self.text_of))
                self.define(node, text, once=node in self.sweeps.uniform)

    def value(self, node: fx.Node | None) -> str:
        """A node's value; no node is zero."""
        return self.spelled(ZERO) if node is None else self.text_of[node]


def is_truth(node: fx.Node) -> bool:
    """Whether a node's value is true or false."""
    return bool(node.meta["val"].dtype == torch.bool)


def forward(out: Printer) -> None:
    """Current, initial states, settings -> wanted results, final states, saved values.

    Raises:
        NotElementwiseError: An operation has no expression.
    """
    sweeps, results = out.sweeps, out.sweeps.step.results
    states = range(1, len(results))
    _forward_arrays(out)
    out.define(sweeps.step.operands[0], out.element("current"))
    for i in states:
        out.define(sweeps.states[i - 1], out.carry(f"initial{i}", f"state{i}"))
    out.compute((*results, *sweeps.saved))
    for position in sweeps.definition.wanted:
        out.store(f"result{position}", out.value(results[position]))
    for i in states:
        out.hand_on(f"state{i}", out.value(results[i]))
    for k, node in enumerate(sweeps.saved):
        out.store(f"saved{k}", out.value(node))


def _forward_arrays(out: Printer) -> None:
    states = range(1, 1 + out.sweeps.definition.states)
    out.array("current", steps=True)
    for i in states:
        out.array(f"initial{i}")
    out.settings()
    for position in out.sweeps.definition.wanted:
        out.array(f"result{position}", steps=True)
    for i in states:
        out.array(f"state{i}")
    for k, node in enumerate(out.sweeps.saved):
        out.array(f"saved{k}", steps=True, truth=is_truth(node))


def backward(out: Printer) -> None:
    """Kept values, settings, gradients of results -> gradients of operands, last step first.

    Raises:
        NotElementwiseError: An operation has no expression.
    """
    for k, kept in enumerate(out.sweeps.kept):
        out.define(kept.node, _kept(out, k, kept))
    out.settings()
    _gradients(out)
    out.compute(asked(out.sweeps.definition, out.sweeps.step))
    _derivatives(out)


def _kept(out: Printer, k: int, kept: Kept) -> str:
    if kept.source == "before":
        return out.late(f"sequence{k}", f"initial{k}")
    out.array(f"kept{k}", steps=True, truth=is_truth(kept.node))
    return out.element(f"kept{k}")


def _gradients(out: Printer) -> None:
    """The gradient of a result: what flows in at this step, and from the step after it."""
    definition = out.sweeps.definition
    states = range(1, 1 + definition.states)
    for position in definition.wanted:
        out.array(f"gradient{position}", steps=True, optional=True)
    for name in (*(f"final{i}" for i in states), *(f"carried{i}" for i in states)):
        out.array(name, optional=True)
    later = {i: out.carry(f"final{i}", f"carried{i}") for i in states}
    for position, node in enumerate(out.sweeps.step.gradients):
        terms = [out.element(f"gradient{position}")] if position in definition.wanted else []
        terms += [later[position]] if position else []
        out.define(node, " + ".join(terms) or out.spelled(ZERO))


def _derivatives(out: Printer) -> None:
    definition = out.sweeps.definition
    current, *others = out.sweeps.step.derivatives
    for i, node in enumerate(others[: definition.states], start=1):
        out.hand_on(f"carried{i}", out.value(node))
    if definition.differentiable[0]:
        out.array("derivative", steps=True)
        out.store("derivative", out.value(current))
    for j, node in enumerate(others[definition.states :]):
        if definition.differentiable[1 + definition.states + j]:
            out.total(j, out.value(node))

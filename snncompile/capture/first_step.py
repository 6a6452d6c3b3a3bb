"""Matches a first step that met plain numbers where later steps meet tensors.

``membrane = 0.`` before a loop makes Python itself compute ``0.9 * membrane`` in the first step:
that call is missing from the trace. Running the later steps' calls on numbers shows whether what
is left is what the trace has.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from snncompile.capture.loop import read_of
from snncompile.capture.sources import Earlier, Here, Source

_COMMUTATIVE = (operator.add, operator.mul)


def _same(number: float) -> float:
    return number


_ON_NUMBERS: dict[Any, Callable[..., float]] = {torch.detach: _same}
"""What Python computes in place of a torch function when its argument is a number."""


@dataclass
class FirstStep:
    """A matched first step.

    Attributes:
        calls: For every call of the body its first-step call, or None where Python computed it.
        initial: For every state its initial number or node.
    """

    calls: list[fx.Node | None] = field(default_factory=list["fx.Node | None"])
    initial: dict[Earlier, fx.Node | float] = field(
        default_factory=dict[Earlier, "fx.Node | float"]
    )


def match_first(
    body: list[fx.Node], sources: list[list[Source]], before: list[fx.Node], steps: int
) -> FirstStep | None:
    """Find the first step at the end of the calls before the loop.

    Args:
        body: The calls of one later step.
        sources: For every call, where each node among its arguments comes from.
        before: The calls before the loop.
        steps: How many steps lie between the first one and `body`.

    Returns:
        The match, or None.
    """
    for start in range(max(len(before) - len(body), 0), len(before) + 1):
        match = _Match(body, sources, before[start:], steps)
        if match.run():
            return match.first
    return None


@dataclass(frozen=True)
class _Unknown:
    """A state whose initial value nothing has shown yet."""

    source: Earlier


class _Match:
    def __init__(
        self, body: list[fx.Node], sources: list[list[Source]], calls: list[fx.Node], steps: int
    ) -> None:
        self.body, self.sources, self.waiting, self.steps = body, sources, list(calls), steps
        self.first = FirstStep()
        self.values: list[fx.Node | float] = []

    def run(self) -> bool:
        return all(self._call(j) for j in range(len(self.body))) and not self.waiting

    def _call(self, j: int) -> bool:
        values = [self._value(source) for source in self.sources[j]]
        return self._matches(j, values) or self._computed(self.body[j], values)

    def _value(self, source: Source) -> fx.Node | float | _Unknown:
        if isinstance(source, Earlier):
            return self.first.initial.get(source, _Unknown(source))
        return self.values[source.position] if isinstance(source, Here) else source.node

    def _computed(self, node: fx.Node, values: list[fx.Node | float | _Unknown]) -> bool:
        """Python itself computed this call: all it reads are numbers, unknown states being 0."""
        function: Any = _ON_NUMBERS.get(node.target, node.target)
        possible = node.target in _ON_NUMBERS or _is_operator(node)
        if not values or not possible or any(isinstance(value, fx.Node) for value in values):
            return False
        numbers = [self._settled(value, 0.0) for value in values]
        queue = iter(numbers)
        args = map_arg(node.args, lambda _: next(queue))
        self.values.append(float(function(*args)))
        self.first.calls.append(None)
        return True

    def _settled(self, value: Any, found: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, _Unknown):
            return value
        return self.first.initial.setdefault(value.source, found)

    def _matches(self, j: int, values: list[fx.Node | float | _Unknown]) -> bool:
        node = self.body[j]
        if not self.waiting or self.waiting[0].target != node.target:
            return False
        found = self.waiting[0]
        read, expected = read_of(found), read_of(node)
        if read is not None and expected is not None and read.source is expected.source:
            agrees = read.index == expected.index - self.steps
        else:
            agrees = self._agrees(node, found, values)
        if agrees:
            self.waiting.pop(0)
            self.first.calls.append(found)
            self.values.append(found)
        return agrees

    def _agrees(self, node: fx.Node, found: fx.Node, values: list[Any]) -> bool:
        queue = iter(values)
        wanted = _leaves(map_arg((node.args, node.kwargs), lambda _: next(queue)))
        have = _leaves((found.args, found.kwargs))
        orders = [have, have[::-1]] if node.target in _COMMUTATIVE else [have]
        for order in orders:
            pairs = list(zip(wanted, order, strict=False))
            if len(wanted) == len(order) and all(_fits(w, h) for w, h in pairs):
                for want, seen in pairs:
                    self._settled(want, seen)
                return True
        return False


def _leaves(arguments: object) -> list[Any]:
    return pytree.tree_leaves(arguments)


def _fits(want: Any, seen: Any) -> bool:  # noqa: ANN401
    if isinstance(want, _Unknown):
        return isinstance(seen, (fx.Node, int, float))
    return want is seen or (not isinstance(want, fx.Node) and bool(want == seen))


def _is_operator(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", "") == "_operator"

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

from snncompile.capture.loop import read_of

_COMMUTATIVE = (operator.add, operator.mul)
_ON_NUMBERS: dict[Any, Callable[..., Any]] = {torch.detach: lambda number: number}


@dataclass
class FirstStep:
    """A matched first step.

    Attributes:
        calls: For every call of the body its first-step call, or None where Python computed it.
        numbers: For every state (as the caller names it) its initial number.
    """

    calls: list[fx.Node | None] = field(default_factory=list["fx.Node | None"])
    numbers: dict[Any, float] = field(default_factory=dict[Any, float])


def match_first(
    body: list[fx.Node], sources: list[list[Any]], before: list[fx.Node], steps: int
) -> FirstStep | None:
    """Find the first step at the end of the calls before the loop.

    Args:
        body: The calls of one later step.
        sources: For every call, what each node among its arguments is: an object with
            `position` alone (same step), with `position` and `lag` (a state), or with `node`.
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


class _Match:
    def __init__(
        self, body: list[fx.Node], sources: list[list[Any]], calls: list[fx.Node], steps: int
    ) -> None:
        self.body, self.sources, self.waiting, self.steps = body, sources, list(calls), steps
        self.first = FirstStep()
        self.values: list[fx.Node | float] = []

    def run(self) -> bool:
        return all(self._call(j) for j in range(len(self.body))) and not self.waiting

    def _call(self, j: int) -> bool:
        node, values = self.body[j], [self._value(source) for source in self.sources[j]]
        function = _ON_NUMBERS.get(node.target, node.target)
        numbers = bool(values) and not any(isinstance(value, fx.Node) for value in values)
        if numbers and (node.target in _ON_NUMBERS or _is_operator(node)):
            queue = iter(values)
            args = fx.node.map_arg(node.args, lambda _: next(queue))
            self.values.append(float(function(*args)))  # type: ignore[operator, misc]
            self.first.calls.append(None)
            return True
        return self._matches(j, values)

    def _value(self, source: Any) -> fx.Node | float:  # noqa: ANN401
        if hasattr(source, "lag"):
            return self.first.numbers.setdefault(source, 0.0)
        return self.values[source.position] if hasattr(source, "position") else source.node

    def _matches(self, j: int, values: list[fx.Node | float]) -> bool:
        node = self.body[j]
        if not self.waiting or self.waiting[0].target != node.target:
            return False
        found = self.waiting.pop(0)
        self.first.calls.append(found)
        self.values.append(found)
        read, expected = read_of(found), read_of(node)
        if read is not None and expected is not None and read.source is expected.source:
            return read.index == expected.index - self.steps
        queue = iter(values)
        wanted = list(fx.node.map_arg(node.args, lambda _: next(queue)))  # type: ignore[arg-type]
        have = list(found.args)
        swapped = have[::-1] if node.target in _COMMUTATIVE else have
        return (wanted in (have, swapped)) and len(found.kwargs) == len(node.kwargs)


def _is_operator(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", "") == "_operator"

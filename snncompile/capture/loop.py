"""Finds the time loop in an unrolled trace: which calls belong to which step.

Python ran the loop, so the trace is the same stretch of calls over and over. `find_loops` looks
for the repetition that covers most of the trace, and anchors it: a loop over time reads
consecutive positions of one tensor, or calls one stateful neuron again and again.
"""

import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from snncompile.errors import CaptureError
from snncompile.ir.neurons import NEURONS


@dataclass(frozen=True)
class Read:
    """One position of a tensor's axis: ``source[:, index]``."""

    source: fx.Node
    axis: int
    index: int


@dataclass(frozen=True)
class Loop:
    """The steps of a trace.

    Attributes:
        slices: For every step, its calls; all have the same length.
        first: Calls before them that may be a first step with plain numbers as states; else [].
        reads: The reads of a sequence, by node.
    """

    slices: list[list[fx.Node]]
    first: list[fx.Node]
    reads: dict[fx.Node, Read]


def _calls(graph: fx.Graph) -> list[fx.Node]:
    """The calls of a trace in order, without what is computed from sizes alone."""
    kinds = {"call_function", "call_method", "call_module"}
    return [
        node
        for node in graph.nodes
        if node.op in kinds and isinstance(node.meta.get("val"), (Tensor, tuple, list))
    ]


def read_of(node: fx.Node) -> Read | None:
    """Which position of which tensor a node reads, if that is what it does."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return None
    source, index = node.args[0], node.args[1]
    value = source.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    parts = index if isinstance(index, tuple) else (index,)
    numbers = [(i, part) for i, part in enumerate(parts) if isinstance(part, int)]
    whole = [part for part in parts if part in (slice(None), Ellipsis)]
    if len(numbers) != 1 or len(whole) + 1 != len(parts) or isinstance(numbers[0][1], bool):
        return None
    axis, position = numbers[0]
    if Ellipsis in parts[:axis]:
        axis -= len(parts)
    size = value.shape[axis]
    return Read(source, axis % value.dim(), position if position >= 0 else int(size) + position)


def _anchors(calls: list[fx.Node], reads: dict[fx.Node, Read]) -> list[fx.Node]:
    """One call of every step: consecutive reads, else repeated calls of a neuron, else none."""
    by_source: dict[tuple[fx.Node, int], list[fx.Node]] = {}
    for node, read in reads.items():
        by_source.setdefault((read.source, read.axis), []).append(node)
    for found in by_source.values():
        seen: dict[int, fx.Node] = {}
        for node in found:
            seen.setdefault(reads[node].index, node)
        if len(seen) > 1 and list(seen) == list(range(len(seen))):
            return list(seen.values())
    return _repeated_neuron(calls)


def _repeated_neuron(calls: list[fx.Node]) -> list[fx.Node]:
    neurons = [node for node in calls if node.target in NEURONS]
    counts = Counter((node.target, node.meta["module"]) for node in neurons)
    if not counts or max(counts.values()) == 1:
        return []
    key = next(key for key, count in counts.items() if count == min(counts.values()))
    return [node for node in neurons if (node.target, node.meta["module"]) == key]


def _repeated_module(calls: list[fx.Node]) -> list[fx.Node]:
    """The calls of the module that is called least, if even that is called more than once."""
    counts = Counter(node.target for node in calls if node.op == "call_module")
    if not counts or min(counts.values()) == 1:
        return []
    least = min(counts, key=lambda target: counts[target])
    return [node for node in calls if node.op == "call_module" and node.target == least]


def _signatures(calls: list[fx.Node], reads: dict[fx.Node, Read]) -> list[str]:
    """What must agree between steps: what is called, not on what."""
    return [f"read {reads[n].axis}" if n in reads else f"{n.op} {n.target}" for n in calls]


_FEWEST_UNANCHORED = 3
"""Without a sequence or a stateful neuron, this many equal stretches make a loop over time."""


def find_loops(graph: fx.Graph) -> list[Loop]:
    """The ways to cut an unrolled trace into steps, likeliest first; none when nothing repeats.

    Args:
        graph: A recorded trace.

    Returns:
        Cuts of the repetition that covers most of the trace. Whether the steps are copies of
        each other also in what they read, rolling them up decides.

    Raises:
        CaptureError: The trace reads a sequence step by step, but the steps differ.
    """
    calls = _calls(graph)
    reads = {node: read for node in calls if (read := read_of(node)) is not None}
    anchored = _anchors(calls, reads)
    certain = bool(anchored)
    anchored = anchored or _repeated_module(calls)
    if len(anchored) < 2:  # noqa: PLR2004
        return []
    reads = {n: r for n, r in reads.items() if _same_sequence(r, reads.get(anchored[0]))}
    period, start, count, slack = _repetition(_signatures(calls, reads))
    steps = len(anchored) if certain else max(count, _FEWEST_UNANCHORED)
    if period == 0 or count not in {steps, steps - 1}:
        return [_by_anchors(calls, anchored, reads)] if certain else []
    anchor = calls.index(anchored[steps - count])
    shifts = [anchor - start, slack, *range(slack)]
    starts = dict.fromkeys(start + shift for shift in shifts if 0 <= shift <= slack)
    cuts = [
        [calls[first + k * period : first + (k + 1) * period] for k in range(count)]
        for first in starts
    ]
    peeled = [_peeled(calls, slices, reads) for slices in cuts]
    if count == steps - 1 or not certain:
        return [Loop(slices, calls[: calls.index(slices[0][0])], reads) for slices in cuts] + peeled
    return [Loop(slices, [], reads) for slices in cuts] + peeled


def _peeled(calls: list[fx.Node], slices: list[list[fx.Node]], reads: dict[fx.Node, Read]) -> Loop:
    """A cut whose first step is left to match: it may have met numbers where others met tensors."""
    return Loop(slices[1:], calls[: calls.index(slices[1][0])], reads)


def _same_sequence(read: Read, anchor: Read | None) -> bool:
    return anchor is not None and read.axis == anchor.axis


def _by_anchors(calls: list[fx.Node], anchored: list[fx.Node], reads: dict[fx.Node, Read]) -> Loop:
    """Cut where each step reads its input: for steps that differ, so that the error can say how."""
    positions = [calls.index(node) for node in anchored]
    ends = [*positions[1:], 2 * positions[-1] - positions[-2]]
    slices = [calls[a:b] for a, b in zip(positions, ends, strict=True)]
    texts = [tuple(_signatures(calls, reads)) for calls in slices[:-1]]
    usual = Counter(texts).most_common(1)[0][0]
    for k, found in enumerate(texts):
        if found != usual:
            j = next(
                (j for j, pair in enumerate(zip(found, usual, strict=False)) if pair[0] != pair[1]),
                min(len(found), len(usual)),
            )
            raise steps_differ(slices, k, j)
    return Loop(slices, [], reads)


def steps_differ(slices: list[list[fx.Node]], k: int, j: int) -> CaptureError:
    """The error for steps that are not copies of each other.

    Args:
        slices: The calls of every step.
        k: The step that differs.
        j: The first call of it that differs.

    Returns:
        An error that shows that call and what the neighbouring steps have there.
    """

    def shown(step: int) -> str:
        return _shown(slices[step][j]) if j < len(slices[step]) else "nothing"

    steps = range(max(k - 1, 0), min(k + 2, len(slices)))
    lines = "\n".join(f"  step {step}: {shown(step)}" for step in steps)
    module = slices[k][j].meta.get("module") if j < len(slices[k]) else ""
    place = f" in module '{module}'" if module else ""
    return CaptureError(
        f"the time steps of the model differ: call {j} of step {k}{place}\n{lines}\n"
        "make every step run the same calls, or move what differs before or after the loop"
    )


def _shown(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    arguments = ", ".join(f"%{a}" if isinstance(a, fx.Node) else repr(a) for a in node.args)
    return f"%{node.name} = {name}({arguments})"


def _repetition(signatures: list[str]) -> tuple[int, int, int, int]:
    """The repetition that covers most of a list: period, start, count, and how far it may shift."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(text, len(numbers)) for text in signatures])
    best = (0, 0, 0, 0, 0)
    for period in range(1, len(ids) // 2 + 1):
        start, length = _longest_run(ids[:-period] == ids[period:])
        covered = (length + period) // period * period
        if length >= period and covered > best[0]:
            best = (covered, period, start, covered // period, length + period - covered)
    return best[1:]


def _longest_run(equal: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[int, int]:
    """Start and length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], equal.view(np.int8), [0]))))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) == 0:
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest] - starts[longest])

"""Finds the time loop in an unrolled trace: which calls belong to which step.

Python ran the loop, so the trace is the same stretch of calls over and over. `find_loop` looks
for the repetition that covers most of the trace, and anchors it: a loop over time reads
consecutive positions of one tensor, or calls one stateful neuron again and again.
"""

import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

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


def calls_of(graph: fx.Graph) -> list[fx.Node]:
    """The calls of a trace in order, without what is computed from sizes alone."""
    kinds = {"call_function", "call_method", "call_module"}
    return [n for n in graph.nodes if n.op in kinds and isinstance(_tensor(n), (Tensor, tuple, list))]


def _tensor(node: fx.Node) -> Any:  # noqa: ANN401
    return node.meta.get("val")


def read_of(node: fx.Node) -> Read | None:
    """Which position of which tensor a node reads, if that is what it does."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return None
    source, index = node.args[0], node.args[1]
    if not isinstance(_tensor(source), Tensor):
        return None
    parts = index if isinstance(index, tuple) else (index,)
    numbers = [i for i, part in enumerate(parts) if isinstance(part, int)]
    others = [part for part in parts if part not in (slice(None), Ellipsis) and not isinstance(part, int)]
    if len(numbers) != 1 or others or isinstance(parts[numbers[0]], bool):
        return None
    axis = numbers[0]
    if Ellipsis in parts[:axis]:
        axis -= len(parts)
    value = source.meta["val"]
    size = value.shape[axis]
    position = parts[numbers[0]]
    return Read(source, axis % value.dim(), position if position >= 0 else int(size) + position)


def anchors(calls: list[fx.Node], reads: dict[fx.Node, Read]) -> list[fx.Node]:
    """One call of every step: consecutive reads, else repeated calls of a neuron, else none.

    Args:
        calls: The trace.
        reads: Its reads of single positions.

    Returns:
        The anchors in execution order; empty when nothing repeats.
    """
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


def _signatures(calls: list[fx.Node], reads: dict[fx.Node, Read]) -> list[str]:
    """What must agree between steps: what is called, not on what."""
    return [f"read {reads[n].axis}" if n in reads else f"{n.op} {n.target}" for n in calls]


def find_loop(graph: fx.Graph) -> Loop | None:
    """The steps of an unrolled trace, or None when nothing in it repeats.

    Args:
        graph: A recorded trace.

    Returns:
        Its steps, from the repetition that covers most of it. Steps may still differ in what
        they read; rolling them up checks that.
    """
    calls = calls_of(graph)
    reads = {node: read for node in calls if (read := read_of(node)) is not None}
    anchored = anchors(calls, reads)
    if len(anchored) < 2:  # noqa: PLR2004
        return None
    reads = {n: r for n, r in reads.items() if _same_sequence(r, reads.get(anchored[0]))}
    period, start, count, slack = _repetition(_signatures(calls, reads))
    steps = len(anchored)
    if period == 0 or count not in {steps, steps - 1}:
        return _by_anchors(calls, anchored, reads)
    anchor = calls.index(anchored[steps - count])
    start = anchor if start <= anchor <= start + slack else start
    slices = [calls[start + k * period : start + (k + 1) * period] for k in range(count)]
    first = calls[:start] if count == steps - 1 else []
    return Loop(slices, first, reads)


def _same_sequence(read: Read, anchor: Read | None) -> bool:
    return anchor is not None and read.axis == anchor.axis


def _by_anchors(
    calls: list[fx.Node], anchored: list[fx.Node], reads: dict[fx.Node, Read]
) -> Loop:
    """Cut where each step reads its input: for steps that differ, so that the error can say how."""
    positions = [calls.index(node) for node in anchored]
    period = positions[-1] - positions[-2]
    ends = [*positions[1:], positions[-1] + period]
    slices = [calls[a:b] for a, b in zip(positions, ends, strict=True)]
    return Loop(slices, [], reads)


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

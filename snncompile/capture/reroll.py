"""Rolls an unrolled trace up into one time step with explicit state.

The slices of a trace (see `loop`) must be copies of each other. A value that one slice reads from
the slice before it is a state; what all slices read from outside is a static input; the values
that calls after the loop read become outputs: stacked, summed step by step, or the last one.
"""

import operator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from snncompile.capture.builder import EpilogueWriter, ProgramBuilder
from snncompile.capture.first_step import match_first
from snncompile.capture.loop import Loop, Read, find_loops, steps_differ
from snncompile.capture.trace import Trace
from snncompile.errors import CaptureError
from snncompile.ir.program import Program


@dataclass(frozen=True)
class Here:
    """An argument computed in the same step, at a position of the slice."""

    position: int


@dataclass(frozen=True)
class Earlier:
    """An argument computed `lag` steps ago: a state."""

    position: int
    lag: int


@dataclass(frozen=True)
class Outside:
    """An argument computed before the loop."""

    node: fx.Node


Source = Here | Earlier | Outside


@dataclass
class Rolled:
    """One step, in terms of the trace.

    Attributes:
        loop: The slices; the last one is the template.
        sources: For every call of the template, what each node among its arguments is.
        steps: For every step, its calls; None where Python computed a first step's value.
        place: Step and position of every call in the loop.
        initial: For every state, its value before the first step: a node or a number.
    """

    loop: Loop
    sources: list[list[Source]]
    steps: list[list[fx.Node | None]]
    place: dict[fx.Node, tuple[int, int]]
    initial: dict[Earlier, fx.Node | float] = field(default_factory=dict[Earlier, "fx.Node | float"])

    @property
    def body(self) -> list[fx.Node]:
        """The calls of the template."""
        return self.loop.slices[-1]


def reroll(model: nn.Module, trace: Trace) -> Program | None:
    """Roll a trace up.

    Args:
        model: The model that was traced.
        trace: A recorded run.

    Returns:
        The program, or None when the trace has no loop over time.

    Raises:
        CaptureError: Two steps differ; shows the first call that differs.
    """
    rolled = _first_that_rolls(find_loops(trace.graph))
    if rolled is None:
        return None
    builder = ProgramBuilder(model, trace)
    made = _StepWriter(builder, rolled).write()
    epilogue = _LoopEpilogue(builder, rolled, made)
    program = builder.finish(epilogue, trace.leaves)
    program.time = epilogue.fixed_time(trace)
    return program


def _first_that_rolls(loops: list[Loop]) -> Rolled | None:
    errors: list[CaptureError] = []
    for loop in loops:
        try:
            return roll(loop)
        except CaptureError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def roll(loop: Loop) -> Rolled:
    """Check that the slices are copies of each other, and find what crosses between them.

    Args:
        loop: The slices of a trace.

    Returns:
        The template step and the states.

    Raises:
        CaptureError: Two slices differ; shows the first call that differs.
    """
    slices = loop.slices
    place = {node: (k, j) for k, calls in enumerate(slices) for j, node in enumerate(calls)}
    template = [_sources(node, len(slices) - 1, place) for node in slices[-1]]
    rolled = Rolled(loop, template, [list(calls) for calls in slices], place)
    for k, calls in enumerate(slices):
        for j in range(len(slices[-1])):
            if j >= len(calls):
                raise steps_differ(loop.slices, k, j)
            _check(rolled, k, j, calls[j])
    if loop.first:
        _join_first(rolled)
    return rolled


def arguments_of(node: fx.Node) -> list[fx.Node]:
    """The nodes among a call's arguments, in order, each as often as it is written."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)  # type: ignore[arg-type]
    return found


def _sources(node: fx.Node, k: int, place: dict[fx.Node, tuple[int, int]]) -> list[Source]:
    sources: list[Source] = []
    for argument in arguments_of(node):
        if argument not in place:
            sources.append(Outside(argument))
            continue
        step, position = place[argument]
        sources.append(Here(position) if step == k else Earlier(position, k - step))
    return sources


def _constants(node: fx.Node, reads: dict[fx.Node, Read]) -> str:
    if node in reads:
        return f"axis {reads[node].axis}"
    return repr(fx.node.map_arg((node.args, node.kwargs), lambda n: "%"))  # type: ignore[arg-type, return-value]


def _check(rolled: Rolled, k: int, j: int, node: fx.Node) -> None:
    """Compare one call of step k with the template; note the initial value of what it reads."""
    template, loop = rolled.body[j], rolled.loop
    same_call = (node.op, node.target) == (template.op, template.target)
    if not same_call or _constants(node, loop.reads) != _constants(template, loop.reads):
        raise steps_differ(loop.slices, k, j)
    if node in loop.reads:
        _check_read(rolled, k, j, node)
        return
    expected = rolled.sources[j]
    found = _sources(node, k, rolled.place)
    for want, have in zip(expected, found, strict=True):
        if want == have:
            continue
        if not (isinstance(want, Earlier) and isinstance(have, Outside) and k < want.lag):
            raise steps_differ(loop.slices, k, j)
        key = Earlier(want.position, want.lag - k)
        if rolled.initial.setdefault(key, have.node) is not have.node:
            raise steps_differ(loop.slices, k, j)


def _check_read(rolled: Rolled, k: int, j: int, node: fx.Node) -> None:
    steps, reads = len(rolled.loop.slices), rolled.loop.reads
    last = reads[rolled.body[j]]
    read = reads[node]
    if (read.source, read.index - k) != (last.source, last.index - (steps - 1)):
        raise steps_differ(rolled.loop.slices, k, j)


def _join_first(rolled: Rolled) -> None:
    """The first step met plain numbers where later steps meet tensors: those are its states."""
    loop = rolled.loop
    match = match_first(rolled.body, rolled.sources, loop.first, len(loop.slices))
    if match is None:
        raise steps_differ(loop.slices, 0, 0)
    rolled.steps.insert(0, match.calls)
    rolled.place = {
        node: (k, j)
        for k, calls in enumerate(rolled.steps)
        for j, node in enumerate(calls)
        if node is not None
    }
    later = {Earlier(s.position, s.lag): v for s, v in rolled.initial.items()}
    rolled.initial = dict(match.initial)
    for state, value in later.items():
        if value in rolled.place:
            if rolled.place[value] != (0, state.position):  # type: ignore[index]
                raise steps_differ(loop.slices, 0, 0)
        elif rolled.initial.setdefault(Earlier(state.position, state.lag - 1), value) is not value:
            raise steps_differ(loop.slices, 0, 0)


class _StepWriter:
    """Writes the template into the builder's step."""

    def __init__(self, builder: ProgramBuilder, rolled: Rolled) -> None:
        self.builder, self.rolled = builder, rolled
        self.made: list[fx.Node] = []
        self.states: dict[Earlier, fx.Node] = {}
        self.recorded = {state.node: state for state in builder.trace.states.values()}

    def write(self) -> list[fx.Node]:
        """Copy every call; returns the nodes of the step, by position."""
        reads = self.rolled.loop.reads
        for j, node in enumerate(self.rolled.body):
            read = reads.get(node)
            if read is not None:
                self.made.append(self.builder.input(read.source, read.axis))
                continue
            queue = iter([self._argument(source) for source in self.rolled.sources[j]])
            self.made.append(self.builder.copy(node, lambda _, queue=queue: next(queue)))  # type: ignore[misc]
        for key, state in list(self.states.items()):
            self._hand_over(key, state)
        return self.made

    def _argument(self, source: Source) -> fx.Node:
        if isinstance(source, Here):
            return self.made[source.position]
        if isinstance(source, Earlier):
            return self._state(source)
        node = source.node
        if node.op == "get_attr":
            return self.builder.attribute(node)
        if node in self.recorded:
            return self._recorded_state(node)
        if not isinstance(node.meta["val"], Tensor):
            return self.builder.size(node)
        return self.builder.input(node, None)

    def _recorded_state(self, node: fx.Node) -> fx.Node:
        state = self.recorded[node]
        return self.builder.state(
            state.label, node.meta["val"], state.initial, carried=state.carried
        )

    def _state(self, key: Earlier) -> fx.Node:
        if key not in self.states:
            self.states[key] = self._make_state(key)
            if key.lag > 1:
                self._state(Earlier(key.position, key.lag - 1))
        return self.states[key]

    def _make_state(self, key: Earlier) -> fx.Node:
        initial = self.rolled.initial.get(key, 0.0)
        if isinstance(initial, fx.Node) and initial in self.recorded:
            return self._recorded_state(initial)
        node = self.rolled.body[key.position]
        module = node.meta.get("module") or ""
        label = f"{module}.{node.name}" if module else node.name
        label = label if key.lag == 1 else f"{label}.delay{key.lag}"
        return self.builder.state(label, node.meta["val"], initial)

    def _hand_over(self, key: Earlier, state: fx.Node) -> None:
        following = Earlier(key.position, key.lag - 1)
        value = self.made[key.position] if key.lag == 1 else self.states[following]
        self.builder.next(state, value)


class _LoopEpilogue(EpilogueWriter):
    """Recognises what the calls after a loop do with the values of its steps."""

    def __init__(self, builder: ProgramBuilder, rolled: Rolled, made: list[fx.Node]) -> None:
        super().__init__(builder)
        self.rolled, self.made = rolled, made
        self.steps = len(rolled.steps)
        self.after = _descendants(list(rolled.place))
        self.needs_count = False

    def runs_before(self, node: fx.Node) -> bool:
        """Whether a trace node does not depend on the steps."""
        return node not in self.after

    def fixed_time(self, trace: Trace) -> int | None:
        """The number of steps, unless it is that of a sequence whose length the model asked for."""
        reads = list(self.rolled.loop.reads.values())
        lengths = {int(read.source.meta["val"].shape[read.axis]) for read in reads}
        asked = any(read.source in trace.measured for read in reads)
        follows_input = asked and lengths == {self.steps} and not self.needs_count
        return None if follows_input else self.steps

    def special(self, node: fx.Node) -> fx.Node | None:
        """Stacks, lists, running sums and last values of the steps."""
        if node in self.rolled.place:
            return self._one_step(node)
        listed = self._listed(node)
        if listed is not None and node.target is torch.stack:
            axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            dims = node.meta["val"].dim()
            return self.output(self.made[listed], "stack", int(axis) % dims, node.meta["val"])  # type: ignore[call-overload]
        if listed is not None and node.target in {torch.cat, torch.concat}:
            return self._concatenated(node, listed)
        summed = self._summed(node)
        if summed is not None:
            return self.output(self.made[summed], "running_sum", 0, node.meta["val"])
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
        if readers != 1 or not _is_zero(self.rolled.initial.get(key, 0.0)):
            return None
        other = sources[1 - sources.index(key)]
        return self.made[other.position] if isinstance(other, Here) else None

    def _listed(self, node: fx.Node) -> int | None:
        """The position whose values of all steps, in order, are the list a call is given."""
        items = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else []
        return self._all_steps(list(items))

    def _all_steps(self, items: list[object]) -> int | None:
        places = [self.rolled.place.get(item) for item in items if isinstance(item, fx.Node)]
        if len(items) != self.steps or len(places) != self.steps or None in places:
            return None
        positions = {place[1] for place in places if place}
        in_order = [place[0] for place in places if place] == list(range(self.steps))
        return positions.pop() if in_order and len(positions) == 1 else None

    def _concatenated(self, node: fx.Node, listed: int) -> fx.Node:
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        stacked = self.output(self.made[listed], "stack", 0, None)
        parts = self.graph.call_function(torch.unbind, (stacked, 0))
        joined = self.graph.call_function(torch.cat, (parts, axis))
        joined.meta["val"] = node.meta["val"]
        return joined

    def _summed(self, node: fx.Node) -> int | None:
        """The position whose values a chain of additions after the loop adds up, from the first."""
        items: list[object] = []
        while node.target is operator.add and len(items) < self.steps:
            left, right = node.args
            if left == 0 or right == 0:
                return self._all_steps([right if left == 0 else left, *items])
            items.insert(0, right)
            if left in self.rolled.place:
                return self._all_steps([left, *items])
            if not isinstance(left, fx.Node):
                return None
            node = left
        return None


def _is_zero(initial: fx.Node | float) -> bool:
    if isinstance(initial, fx.Node):
        return initial.target in {torch.zeros, torch.zeros_like}
    return initial == 0.0


def _descendants(nodes: list[fx.Node]) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += list(node.users)
    return seen

"""Checks that the steps of a loop are copies of each other, and finds what crosses between them."""

from dataclasses import dataclass, field

from torch import fx
from torch.fx.node import map_arg

from snncompile.capture.first_step import match_first
from snncompile.capture.graphs import arguments_of
from snncompile.capture.loop import Loop, Read, steps_differ
from snncompile.capture.sources import Earlier, Here, Outside, Source
from snncompile.capture.starts import starts_agree
from snncompile.errors import CaptureError


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
    initial: dict[Earlier, fx.Node | float] = field(
        default_factory=dict[Earlier, "fx.Node | float"]
    )

    @property
    def body(self) -> list[fx.Node]:
        """The calls of the template."""
        return self.loop.slices[-1]


def first_that_rolls(loops: list[Loop]) -> Rolled | None:
    """Roll the first cut of a trace whose steps are copies of each other.

    Args:
        loops: The ways to cut the trace, likeliest first.

    Returns:
        The rolled step; None for no loops.

    Raises:
        CaptureError: In no cut are they; shows the first call that differs in the likeliest.
    """
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
    return repr(map_arg((node.args, node.kwargs), lambda _: "%"))


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
        if not starts_agree(rolled.initial, key, have.node):
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
    later, rolled.initial = rolled.initial, match.initial
    for state, value in later.items():
        if isinstance(value, fx.Node) and value in rolled.place:
            if rolled.place[value] != (0, state.position):
                raise steps_differ(loop.slices, 0, 0)
        elif not starts_agree(rolled.initial, Earlier(state.position, state.lag - 1), value):
            raise steps_differ(loop.slices, 0, 0)

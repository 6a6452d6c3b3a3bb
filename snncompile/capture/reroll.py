"""Rolls an unrolled trace up into one time step with explicit state.

The slices of a trace (see `loop`) must be copies of each other. A value that one slice reads from
the slice before it is a state; what all slices read from outside is a static input; the values
that calls after the loop read become outputs: stacked, summed step by step, or the last one.
"""

from torch import Tensor, fx, nn

from snncompile.capture.builder import ProgramBuilder
from snncompile.capture.loop import find_loops
from snncompile.capture.loop_outputs import LoopEpilogue
from snncompile.capture.rolling import Rolled, first_that_rolls
from snncompile.capture.sources import Earlier, Here, Source
from snncompile.capture.starts import is_zero, starts_agree
from snncompile.capture.trace import Trace
from snncompile.ir.program import Program


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
    rolled = first_that_rolls(find_loops(trace.graph))
    if rolled is None:
        return None
    builder = ProgramBuilder(model, trace)
    writer = _StepWriter(builder, rolled)
    epilogue = LoopEpilogue(builder, rolled, writer.write(), writer.before)
    program = builder.finish(epilogue, trace.leaves)
    follows = epilogue.follows_input(trace)
    program.one_length = follows and epilogue.needs_count
    program.time = None if follows and not epilogue.needs_count else epilogue.steps
    return program


class _StepWriter:
    """Writes the template into the builder's step."""

    def __init__(self, builder: ProgramBuilder, rolled: Rolled) -> None:
        self.builder, self.rolled = builder, rolled
        self.made: list[fx.Node] = []
        self.states: dict[Earlier, fx.Node] = {}
        self.recorded = {state.node: state for state in builder.trace.states.values()}

    def before(self, position: int, initial: fx.Node) -> fx.Node | None:
        """The state that holds a position's value before each step, if it starts at `initial`."""
        key = Earlier(position, 1)
        if not starts_agree(self.rolled.initial, key, initial):
            return None
        state = self._state(key)
        self._hand_over(key, state)
        return state

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
        return self.builder.state(label, node.meta["val"], 0.0 if is_zero(initial) else initial)

    def _hand_over(self, key: Earlier, state: fx.Node) -> None:
        following = Earlier(key.position, key.lag - 1)
        value = self.made[key.position] if key.lag == 1 else self.states[following]
        self.builder.next(state, value)

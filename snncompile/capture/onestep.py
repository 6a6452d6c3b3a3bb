"""A model whose call is one time step: what is hidden in its neurons becomes explicit state."""

from typing import Any

from torch import Tensor, fx, nn

from snncompile.capture.builder import ProgramBuilder
from snncompile.capture.epilogue import EpilogueWriter
from snncompile.capture.trace import Trace
from snncompile.ir.program import Program


def one_step(model: nn.Module, trace: Trace, *, time_steps: int | None, sequence: bool) -> Program:
    """Take the whole trace as the step.

    Args:
        model: The model that was traced, on the input of one step.
        trace: A recorded run.
        time_steps: How often the caller runs it; None for once a call.
        sequence: The caller has a sequence along a new first axis of every tensor; otherwise
            each step is fed the same tensors.

    Returns:
        The program; its outputs are stacked over time, except for what states become.
    """
    builder = ProgramBuilder(model, trace)
    writer = _Writer(builder, sequence=sequence)
    writer.write()
    repeated = time_steps is not None or sequence
    builder.caller_loops = repeated
    builder.time = time_steps if not sequence else None
    if not repeated:
        builder.time = 1
    return builder.finish(_Epilogue(builder, writer, stacked=repeated), trace.leaves)


class _Writer:
    def __init__(self, builder: ProgramBuilder, *, sequence: bool) -> None:
        self.builder = builder
        self.made: dict[fx.Node, fx.Node] = {}
        self.recorded = {state.node: state for state in builder.trace.states.values()}
        self.sequence = sequence

    def write(self) -> None:
        """Copy every call; hand hidden states over."""
        trace = self.builder.trace
        for node in trace.inputs:
            axis = 0 if self.sequence else None
            self.made[node] = self.builder.input(node, axis, stepped=self.sequence)
        for node in trace.graph.nodes:
            if node.op.startswith("call") and isinstance(node.meta["val"], (Tensor, tuple, list)):
                self.made[node] = self.builder.copy(node, self.argument)
        for state, value in trace.finished.items():
            self.builder.next(self.argument(state), self.argument(value))

    def argument(self, node: fx.Node) -> fx.Node:
        """The step's node for a node of the trace."""
        if node in self.made:
            return self.made[node]
        if node.op == "get_attr":
            self.made[node] = self.builder.attribute(node)
        elif node in self.recorded:
            state = self.recorded[node]
            self.made[node] = self.builder.state(
                state.label, node.meta["val"], state.initial, carried=state.carried
            )
        else:
            self.made[node] = self.builder.size(node)
        return self.made[node]


class _Epilogue(EpilogueWriter):
    """Every leaf of the result is a value of the step."""

    def __init__(self, builder: ProgramBuilder, writer: _Writer, *, stacked: bool) -> None:
        super().__init__(builder)
        self.writer, self.stacked = writer, stacked
        finished = builder.trace.finished.items()
        self.handed_on = {v for s, v in finished if not writer.recorded[s].carried}

    def special(self, node: fx.Node) -> fx.Node | None:
        """Outputs are stacked; a state that the caller hands on is the last one."""
        value: Any = self.writer.argument(node)
        last = not self.stacked or node in self.handed_on
        if last:
            return self.output(value, "last", 0, node.meta["val"])
        return self.output(value, "stack", 0, None)

    def runs_before(self, node: fx.Node) -> bool:
        """Nothing does."""
        return False

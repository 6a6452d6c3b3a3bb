"""Reads one time step out of a model that works on whole [T, N, ...] sequences.

Where a neuron or a layer takes a sequence, the trace says what it does in one step. Between them,
calls on sequences ([T, N, ...]) and on sequences folded into the batch ([T * N, ...]) are
translated one by one; a call that mixes time steps, such as a mean over time, ends the step: it
and what follows belong to the epilogue.
"""

import operator

import torch
from torch import SymInt, Tensor, fx, nn

from snncompile.capture.builder import ProgramBuilder
from snncompile.capture.epilogue import EpilogueWriter
from snncompile.capture.lowering import each_step, over_steps
from snncompile.capture.sizes import same_size, size_key
from snncompile.capture.trace import Trace
from snncompile.capture.translate import BATCH_NORMS, SequenceCalls
from snncompile.errors import CaptureError
from snncompile.ir.program import Program


def one_step_of_sequences(model: nn.Module, trace: Trace) -> Program | None:
    """Translate a trace over sequences into a program.

    Args:
        model: The model that was traced.
        trace: A recorded run.

    Returns:
        The program, or None when nothing in the trace takes a whole sequence.

    Raises:
        CaptureError: Time steps are mixed between two layers that need single steps.
    """
    takes_sequences = [n for n in trace.graph.nodes if _takes_sequence(trace, n)]
    if not takes_sequences:
        return None
    builder = ProgramBuilder(model, trace)
    builder.multi_step = True
    translator = _Translator(builder, takes_sequences[0].args[0])
    translator.translate()
    builder.time = translator.steps if isinstance(translator.steps, int) else None
    return builder.finish(_SequenceEpilogue(builder, translator), trace.leaves)


def _takes_sequence(trace: Trace, node: fx.Node) -> bool:
    layer = node.op == "call_module" and (
        str(node.target) in trace.sequence_layers or node.name in trace.whole
    )
    return layer or node.target is each_step


class _Translator(SequenceCalls):
    """Walks the trace and writes what one step of it does.

    Attributes:
        late: Calls that mix steps, and what follows them: they belong to the epilogue.
        recorded: The states that frontends asked for, by placeholder.
    """

    def __init__(self, builder: ProgramBuilder, sequence: fx.Node) -> None:
        shape = sequence.meta["val"].shape
        super().__init__(builder, shape[0], shape[1])
        self.late: set[fx.Node] = set()
        self.recorded = {state.node: state for state in builder.trace.states.values()}

    def translate(self) -> None:
        """Translate every call; what cannot be one step's is left to the epilogue."""
        for node in self.builder.trace.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op.startswith("call") and not isinstance(node.meta["val"], (int, SymInt)):
                self._call(node)
        for state, value in self.builder.trace.finished.items():
            if state in self.recorded and value in self.step:
                self.builder.next(self._state(state), self.step[value])

    def _placeholder(self, node: fx.Node) -> None:
        value: Tensor = node.meta["val"]
        if node not in self.recorded and value.dim() > 1 and same_size(value.shape[0], self.steps):
            self.step[node] = self.builder.input(node, 0)

    def _state(self, node: fx.Node) -> fx.Node:
        state = self.recorded[node]
        return self.builder.state(
            state.label, node.meta["val"], state.initial, carried=state.carried
        )

    def _call(self, node: fx.Node) -> None:
        inputs = node.all_input_nodes
        if any(argument in self.late for argument in inputs):
            self._refuse_late(node)
            self.late.add(node)
        elif node.target is each_step or _takes_sequence(self.builder.trace, node):
            self._enter(node)
        elif node.meta.get("per_step") or node.target is over_steps:
            self._per_step(node)
        elif any(argument in self.step for argument in inputs):
            made = self.translated(node)
            if made is None:
                self.late.add(node)
            else:
                self.step[node] = made
        else:
            self._repeated(node)

    def _refuse_late(self, node: fx.Node) -> None:
        if node.target is each_step or _takes_sequence(self.builder.trace, node):
            culprit = next(n for n in node.all_input_nodes if n in self.late)
            raise CaptureError(
                f"%{culprit.name} ({_name(culprit)}) mixes time steps or is not known to work step "
                f"by step, yet '{node.meta.get('module') or node.name}' runs over time after it; "
                "move it behind the last neuron, or write it per step"
            )

    def _enter(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if source not in self.step:
            self.step[source] = self.builder.input(source, 0)
        if node.target is each_step:
            self.step[node] = self.step[source]
            return
        self.step[node] = self.builder.copy(node, self.argument)
        if isinstance(self.builder.model.get_submodule(str(node.target)), BATCH_NORMS):
            self.builder.whole.add(self.step[node].name)

    def _per_step(self, node: fx.Node) -> None:
        if node.target is over_steps:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            self.step[node] = self.argument(source)
            return
        self.step[node] = self.builder.copy(node, self.argument)

    def argument(self, node: fx.Node) -> fx.Node:
        """The step's node for an argument, which may also be a state."""
        return self._state(node) if node in self.recorded else super().argument(node)

    def _repeated(self, node: fx.Node) -> None:
        """``x.unsqueeze(0).repeat(T, ...)``: a static input becomes a sequence of equal steps."""
        value = node.meta["val"]
        if node.target not in {"repeat", "expand", torch.stack} or not isinstance(value, Tensor):
            return
        if not isinstance(self.steps, int) or not same_size(value.shape[0], self.steps):
            return
        source = _unrepeated(node)
        if source is not None and source not in self.step:
            self.step[node] = self.builder.input(source, None)


def _unrepeated(node: fx.Node) -> fx.Node | None:
    """The static value that a repeat, expand or stack repeats along a new first axis."""
    if node.target is torch.stack:
        items = set(node.all_input_nodes)
        first_axis = node.kwargs.get("dim", (*node.args, 0)[1]) == 0
        return items.pop() if len(items) == 1 and first_axis else None
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if source.target is torch.reshape and same_size(before[0], 1) and len(before) == len(after):
        inner = source.args[0]
        assert isinstance(inner, fx.Node)
        shape = inner.meta["val"].shape
        if [size_key(s) for s in shape] == [size_key(s) for s in after[1:]]:
            return inner
    return None


class _SequenceEpilogue(EpilogueWriter):
    """What follows the last step: it reads whole sequences."""

    def __init__(self, builder: ProgramBuilder, translator: _Translator) -> None:
        super().__init__(builder)
        self.translator = translator

    def special(self, node: fx.Node) -> fx.Node | None:
        """A sequence as a stacked output; the last step of one; the last value of a state."""
        step = self.translator.step
        if node in step and node.meta.get("per_step"):
            return self.output(step[node], "last", 0, node.meta["val"])
        if node in step and self.translator.layout(node) == "sequence":
            return self.output(step[node], "stack", 0, node.meta["val"])
        if node in step and self.translator.layout(node) == "folded":
            stacked = self.output(step[node], "stack", 0, None)
            flat = self.graph.call_function(torch.flatten, (stacked, 0, 1))
            flat.meta["val"] = node.meta["val"]
            return flat
        source = node.args[0] if node.args else None
        if node.target is operator.getitem and source in step and node.args[1] == -1:
            assert isinstance(source, fx.Node)
            return self.output(step[source], "last", 0, node.meta["val"])
        return None

    def runs_before(self, node: fx.Node) -> bool:
        """Whether a trace node does not depend on the steps."""
        return node not in self.translator.late


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))

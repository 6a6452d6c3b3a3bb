"""Reads one time step out of a model that works on whole [T, N, ...] sequences.

Where a neuron or a layer takes a sequence, the trace says what it does in one step. Between them,
calls on sequences ([T, N, ...]) and on sequences folded into the batch ([T * N, ...]) are
translated one by one; a call that mixes time steps, such as a mean over time, ends the step: it
and what follows belong to the epilogue.
"""

import operator
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import SymInt, Tensor, fx, nn

from snncompile.capture.builder import EpilogueWriter, ProgramBuilder
from snncompile.capture.recorder import each_step, over_steps
from snncompile.capture.trace import Trace
from snncompile.errors import CaptureError
from snncompile.ir.elementwise import is_elementwise
from snncompile.ir.program import Program

Layout = Literal["sequence", "folded"]

_ANY_LEADING = (
    nn.Linear, nn.Identity, nn.Dropout, nn.LayerNorm, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU,
    nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.ELU, nn.Softplus,
)  # fmt: skip
"""Layers that act on the last axes, whatever comes before."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_OVER_AXES = {
    torch.mean, torch.sum, torch.amax, torch.amin, torch.max, torch.min, torch.softmax, torch.cat,
    torch.log_softmax, torch.nn.functional.softmax, torch.nn.functional.log_softmax, torch.stack,
    torch.argmax, torch.cumsum, torch.var, torch.std, torch.norm, torch.chunk, torch.split,
}  # fmt: skip
_LEADING_FUNCTIONS = {torch.nn.functional.linear, torch.nn.functional.layer_norm}
_FOLDED_FUNCTIONS = {
    torch.conv1d, torch.conv2d, torch.conv3d, torch.nn.functional.conv1d,
    torch.nn.functional.conv2d, torch.nn.functional.conv3d, torch.nn.functional.avg_pool1d,
    torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d, torch.max_pool2d,
    torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d,
    torch.nn.functional.max_pool3d, torch.nn.functional.adaptive_avg_pool1d,
    torch.nn.functional.adaptive_avg_pool2d, torch.nn.functional.adaptive_max_pool2d,
    torch.nn.functional.interpolate, torch.nn.functional.pad, torch.nn.functional.linear,
    torch.nn.functional.conv_transpose2d, torch.nn.functional.group_norm,
}  # fmt: skip


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
        str(node.target) in trace.single_step or node.name in trace.whole
    )
    return layer or node.target is each_step


def _same(a: int | SymInt, b: int | SymInt) -> bool:
    return _key(a) == _key(b)


def _key(size: int | SymInt) -> str:
    return str(size.node.expr) if isinstance(size, SymInt) else str(size)


class _Translator:
    """Walks the trace and writes what one step of it does."""

    def __init__(self, builder: ProgramBuilder, sequence: fx.Node) -> None:
        self.builder = builder
        shape = sequence.meta["val"].shape
        self.steps: int | SymInt = shape[0]
        self.batch: int | SymInt = shape[1]
        self.folded = shape[0] * shape[1]
        self.step: dict[fx.Node, fx.Node] = {}
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
        if node not in self.recorded and value.dim() > 1 and _same(value.shape[0], self.steps):
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
            made = self._translated(node)
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
        self.step[node] = self.builder.copy(node, self._argument)
        if isinstance(self.builder.model.get_submodule(str(node.target)), _BATCH_NORMS):
            self.builder.whole.add(self.step[node].name)

    def _per_step(self, node: fx.Node) -> None:
        if node.target is over_steps:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            self.step[node] = self._argument(source)
            return
        self.step[node] = self.builder.copy(node, self._argument)

    def _argument(self, node: fx.Node) -> fx.Node:
        if node in self.step:
            return self.step[node]
        if node.op == "get_attr":
            return self.builder.attribute(node)
        if node in self.recorded:
            return self._state(node)
        if not isinstance(node.meta["val"], Tensor):
            return self.builder.size(node)
        return self.builder.input(node, None)

    def _repeated(self, node: fx.Node) -> None:
        """``x.unsqueeze(0).repeat(T, ...)``: a static input becomes a sequence of equal steps."""
        value = node.meta["val"]
        if node.target not in {"repeat", "expand", torch.stack} or not isinstance(value, Tensor):
            return
        if not isinstance(self.steps, int) or not _same(value.shape[0], self.steps):
            return
        source = _unrepeated(node)
        if source is not None and source not in self.step:
            self.step[node] = self.builder.input(source, None)

    # One call on sequences, translated ------------------------------------------------------------

    def layout(self, node: fx.Node) -> Layout | None:
        """How a value holds time: in front of the batch, folded into it, or not at all."""
        value = node.meta["val"]
        if not isinstance(value, Tensor) or value.dim() == 0:
            return None
        if value.dim() > 1 and _same(value.shape[0], self.steps) and _same(value.shape[1], self.batch):
            return "sequence"
        return "folded" if _same(value.shape[0], self.folded) else None

    def _translated(self, node: fx.Node) -> fx.Node | None:
        layouts = {self.layout(n) for n in node.all_input_nodes if n in self.step}
        if len(layouts) != 1 or None in layouts:
            return self._item_of_tuple(node)
        layout = layouts.pop()
        assert layout is not None
        rule = self._rule(node, layout)
        return rule(node, layout) if rule else None

    def _item_of_tuple(self, node: fx.Node) -> fx.Node | None:
        source = node.args[0]
        is_item = node.target is operator.getitem and isinstance(source, fx.Node)
        if not is_item or not isinstance(source.meta["val"], (tuple, list)):  # type: ignore[union-attr]
            return None
        return self.builder.copy(node, self._argument)

    def _rule(
        self, node: fx.Node, layout: Layout
    ) -> Callable[[fx.Node, Layout], fx.Node | None] | None:
        if node.op == "call_module":
            return self._module
        if node.target is torch.reshape:
            return self._reshape
        if node.target is operator.getitem:
            return self._index
        if node.target is torch.permute:
            return self._permute
        if node.target is torch.transpose:
            return self._transpose
        if node.target in _OVER_AXES:
            return self._over_axes
        if node.target in (_FOLDED_FUNCTIONS if layout == "folded" else _LEADING_FUNCTIONS):
            return self._copy
        return self._elementwise if is_elementwise(node) else None

    def _copy(self, node: fx.Node, layout: Layout) -> fx.Node:  # noqa: ARG002
        return self.builder.copy(node, self._argument)

    def _elementwise(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        rank = node.meta["val"].dim() - (layout == "sequence")
        for argument in node.all_input_nodes:
            value = argument.meta["val"]
            if argument not in self.step and isinstance(value, Tensor) and value.dim() > rank:
                return None
        return self._copy(node, layout)

    def _module(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        module = self.builder.model.get_submodule(str(node.target))
        if isinstance(module, nn.Flatten) and layout == "sequence":
            return self._reshape(node, layout)
        if layout == "sequence" and not isinstance(module, _ANY_LEADING):
            return None
        made = self.builder.copy(node, self._argument)
        if isinstance(module, _BATCH_NORMS):
            self.builder.whole.add(made.name)
        return made

    def _reshape(self, node: fx.Node, layout: Layout) -> fx.Node | None:  # noqa: ARG002
        source = node.args[0]
        assert isinstance(source, fx.Node)
        before, after = self._step_shape(source), self._step_shape(node)
        if before is None or after is None:
            return None
        if [_key(size) for size in before] == [_key(size) for size in after]:
            return self.step[source]
        if not all(isinstance(size, int) for size in after[1:]):
            return None
        made = self.builder.step.call_function(
            torch.reshape, (self.step[source], (-1, *after[1:]))
        )
        made.meta["module"] = node.meta.get("module", "")
        return made

    def _step_shape(self, node: fx.Node) -> list[int | SymInt] | None:
        layout, shape = self.layout(node), list(node.meta["val"].shape)
        if layout == "sequence":
            return shape[1:]
        return [self.batch, *shape[1:]] if layout == "folded" else None

    def _index(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        index = node.args[1]
        parts = index if isinstance(index, tuple) else (index,)
        if parts[0] != slice(None) and parts[0] is not Ellipsis:
            return None
        rest = parts if layout == "folded" or parts[0] is Ellipsis else parts[1:]
        return self._with(node, (node.args[0], rest if len(rest) != 1 else rest[0]))

    def _permute(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        order = node.args[1]
        assert isinstance(order, tuple)
        shift = layout == "sequence"
        if order[0] != 0:
            return None
        shifted = tuple(int(axis) - 1 for axis in order[1:]) if shift else order  # type: ignore[call-overload]
        return self._with(node, (node.args[0], shifted))

    def _transpose(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        axes = [self._axis(node, axis, layout) for axis in node.args[1:3]]
        return None if None in axes else self._with(node, (node.args[0], *axes))

    def _axis(self, node: fx.Node, axis: Any, layout: Layout) -> int | None:  # noqa: ANN401
        """An axis of a sequence as an axis of one step; None when it is time itself."""
        source = node.all_input_nodes[0].meta["val"]
        positive = int(axis) % (source.dim() + (node.target is torch.stack))
        if positive == 0:
            return None
        return positive - (layout == "sequence")

    def _over_axes(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        """A reduction, softmax or concatenation over axes other than time."""
        default = 0 if node.target in {torch.cat, torch.stack} else None
        place = 2 if node.target in {torch.chunk, torch.split} else 1
        given = node.kwargs.get("dim", node.args[place] if len(node.args) > place else default)
        if given is None:
            return None
        many = isinstance(given, (tuple, list))
        axes = [self._axis(node, a, layout) for a in (given if many else [given])]  # type: ignore[union-attr]
        if None in axes:
            return None
        made = self.builder.copy(node, self._argument)
        dim = tuple(axes) if many else axes[0]
        if "dim" in node.kwargs:
            made.kwargs = {**made.kwargs, "dim": dim}
        elif len(node.args) > place:
            made.update_arg(place, dim)
        return made

    def _with(self, node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
        made = self.builder.copy(node, self._argument)
        made.args = fx.node.map_arg(args, self._argument)  # type: ignore[assignment]
        return made


def _unrepeated(node: fx.Node) -> fx.Node | None:
    """The static value that a repeat, expand or stack repeats along a new first axis."""
    if node.target is torch.stack:
        items = node.args[0]
        same = isinstance(items, (list, tuple)) and len(set(items)) == 1
        return items[0] if same else None  # type: ignore[index, return-value]
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if source.target is torch.reshape and _same(before[0], 1) and len(before) == len(after):
        inner = source.args[0]
        assert isinstance(inner, fx.Node)
        shape = inner.meta["val"].shape
        if [_key(s) for s in shape] == [_key(s) for s in after[1:]]:
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

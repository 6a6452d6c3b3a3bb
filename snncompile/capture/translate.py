"""Translates one call on sequences into the call of one time step."""

import operator
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import SymInt, Tensor, fx, nn

from snncompile.capture.builder import ProgramBuilder
from snncompile.ir.elementwise import is_elementwise

Layout: TypeAlias = Literal["sequence", "folded"]

Rule: TypeAlias = Callable[[fx.Node, Layout], fx.Node | None]

_ANY_LEADING = (
    nn.Linear, nn.Identity, nn.Dropout, nn.LayerNorm, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU,
    nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.ELU, nn.Softplus,
)  # fmt: skip
"""Layers that act on the last axes, whatever comes before."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
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


def same_size(a: int | SymInt, b: int | SymInt) -> bool:
    """Whether two sizes are the same number or the same expression; adds no guard."""
    return size_key(a) == size_key(b)


def size_key(size: int | SymInt) -> str:
    """A size, as something to compare."""
    return str(size.node.expr) if isinstance(size, SymInt) else str(size)


class SequenceCalls:
    """Knows how values hold time, and what each call on them is in one step.

    Attributes:
        builder: Where the step is written.
        steps: The number of steps, as the trace saw it.
        batch: The batch size, likewise.
        step: For nodes of the trace, the step's node.
    """

    def __init__(self, builder: ProgramBuilder, steps: int | SymInt, batch: int | SymInt) -> None:
        self.builder = builder
        self.steps = steps
        self.batch = batch
        self.step: dict[fx.Node, fx.Node] = {}

    def argument(self, node: fx.Node) -> fx.Node:
        """The step's node for an argument, which may also be the same at every step."""
        if node in self.step:
            return self.step[node]
        if node.op == "get_attr":
            return self.builder.attribute(node)
        if not isinstance(node.meta["val"], Tensor):
            return self.builder.size(node)
        return self.builder.input(node, None)

    def layout(self, node: fx.Node) -> Layout | None:
        """How a value holds time: in front of the batch, folded into it, or not at all."""
        value = node.meta["val"]
        if not isinstance(value, Tensor) or value.dim() == 0:
            return None
        if (
            value.dim() > 1
            and same_size(value.shape[0], self.steps)
            and same_size(value.shape[1], self.batch)
        ):
            return "sequence"
        return "folded" if same_size(value.shape[0], self.steps * self.batch) else None

    def translated(self, node: fx.Node) -> fx.Node | None:
        """The step's node for a call on sequences; None when it mixes steps or is not known."""
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
        return self.builder.copy(node, self.argument)

    def _rule(self, node: fx.Node, layout: Layout) -> Rule | None:
        if node.op == "call_module":
            return self._module
        copied = _FOLDED_FUNCTIONS if layout == "folded" else _LEADING_FUNCTIONS
        special: dict[Any, Rule] = {
            torch.reshape: self._reshape,
            operator.getitem: self._index,
            torch.permute: self._permute,
            torch.transpose: self._transpose,
            **dict.fromkeys(_OVER_AXES, self._over_axes),
            **dict.fromkeys(copied, self._copy),
        }
        return special.get(node.target) or (self._elementwise if is_elementwise(node) else None)

    def _copy(self, node: fx.Node, layout: Layout) -> fx.Node:
        return self.builder.copy(node, self.argument)

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
        made = self.builder.copy(node, self.argument)
        if isinstance(module, BATCH_NORMS):
            self.builder.whole.add(made.name)
        return made

    def _reshape(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        before, after = self._step_shape(source), self._step_shape(node)
        if before is None or after is None:
            return None
        if [size_key(size) for size in before] == [size_key(size) for size in after]:
            return self.step[source]
        if not all(isinstance(size, int) for size in after[1:]):
            return None
        made = self.builder.step.call_function(torch.reshape, (self.step[source], (-1, *after[1:])))
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
        made = self.builder.copy(node, self.argument)
        dim = tuple(axes) if many else axes[0]
        if "dim" in node.kwargs:
            made.kwargs = {**made.kwargs, "dim": dim}
        elif len(node.args) > place:
            made.update_arg(place, dim)
        return made

    def _with(self, node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
        made = self.builder.copy(node, self.argument)
        made.args = fx.node.map_arg(args, self.argument)  # type: ignore[assignment]
        return made

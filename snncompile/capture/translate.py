# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Translates one call on sequences into the call of one time step."""

import operator
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional

from snncompile.capture.builder import ProgramBuilder
from snncompile.capture.sizes import Size, same_size, size_key
from snncompile.ir.elementwise import is_elementwise
from snncompile.ir.operations import is_part

Layout: TypeAlias = Literal["sequence", "folded"]

Rule: TypeAlias = Callable[[fx.Node, Layout], fx.Node | None]

_ANY_LEADING = (
    nn.Linear, nn.Identity, nn.Dropout, nn.LayerNorm, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU,
    nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.ELU, nn.Softplus,
)  # fmt: skip
"""Layers that act on the last axes, whatever comes before."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers whose training statistics run over all steps and samples at once."""

_OVER_AXES: frozenset[Callable[..., Any]] = frozenset((
    torch.mean, torch.sum, torch.amax, torch.amin, torch.max, torch.min, torch.softmax, torch.cat,
    torch.log_softmax, functional.softmax, functional.log_softmax, torch.stack,
    torch.argmax, torch.cumsum, torch.var, torch.std, torch.norm, torch.chunk, torch.split,
))  # fmt: skip
"""Functions along axes that an argument names."""

_LEADING_FUNCTIONS = frozenset((functional.linear, functional.layer_norm))
"""Functions of the last axes, whatever comes before."""

_FOLDED_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset((
    torch.conv1d, torch.conv2d, torch.conv3d, functional.conv1d, functional.conv2d,
    functional.conv3d, functional.conv_transpose2d, functional.linear, functional.group_norm,
    functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d, torch.max_pool2d,
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d,
    functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d,
    functional.adaptive_max_pool2d, functional.interpolate, functional.pad,
))  # fmt: skip
"""Functions of a batch, in which steps may lie end to end."""


class SequenceCalls:
    """Knows how values hold time, and what each call on them is in one step.

    Attributes:
        builder: Where the step is written.
        steps: The number of steps, as the trace saw it.
        batch: The batch size, likewise.
        step: For nodes of the trace, the step's node.
    """

    def __init__(self, builder: ProgramBuilder, steps: Size, batch: Size) -> None:
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
        layouts: set[Layout | None] = {
            self.layout(n) for n in node.all_input_nodes if n in self.step
        }
        layout = layouts.pop() if len(layouts) == 1 else None
        if layout is None:
            return self._part(node)
        rule = self._rule(node, layout)
        return rule(node, layout) if rule else None

    def _part(self, node: fx.Node) -> fx.Node | None:
        return self.builder.copy(node, self.argument) if is_part(node) else None

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

    def _step_shape(self, node: fx.Node) -> list[Size] | None:
        layout = self.layout(node)
        shape: list[Size] = list(node.meta["val"].shape)
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
        first, *others = [self._axis(node, axis, layout) for axis in _axes(node.args[1])]
        if first is not None:
            return None
        order = others if layout == "sequence" else [0, *others]
        return self._with(node, (node.args[0], tuple(order)))

    def _transpose(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        axes = [self._axis(node, axis, layout) for axis in _axes(node.args[1:3])]
        swaps_two = len(axes) == 2 and None not in axes  # noqa: PLR2004
        return self._with(node, (node.args[0], *axes)) if swaps_two else None

    def _axis(self, node: fx.Node, axis: int, layout: Layout) -> int | None:
        """An axis of a sequence as an axis of one step; None when it is time itself."""
        source: Tensor = node.all_input_nodes[0].meta["val"]
        positive = axis % (source.dim() + (node.target is torch.stack))
        if positive == 0:
            return None
        return positive - (layout == "sequence")

    def _over_axes(self, node: fx.Node, layout: Layout) -> fx.Node | None:
        """A reduction, softmax or concatenation over axes other than time."""
        default = 0 if node.target in {torch.cat, torch.stack} else None
        place = 2 if node.target in {torch.chunk, torch.split, torch.norm} else 1
        given = node.kwargs.get("dim", node.args[place] if len(node.args) > place else default)
        if given is None:
            return None
        axes = [self._axis(node, axis, layout) for axis in _axes(given)]
        if not axes or None in axes:
            return None
        made = self.builder.copy(node, self.argument)
        dim = tuple(axes) if isinstance(given, (tuple, list)) else axes[0]
        if "dim" in node.kwargs:
            made.kwargs = {**made.kwargs, "dim": dim}
        elif len(node.args) > place:
            made.update_arg(place, dim)
        return made

    def _with(self, node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
        made = self.builder.copy(node, self.argument)
        made.args = map_arg(args, self.argument)
        return made


def _axes(given: object) -> list[int]:
    """The axes that a call was given as one number or as several."""
    several: list[object] = [*given] if isinstance(given, (tuple, list)) else [given]
    return [axis for axis in several if isinstance(axis, int) and not isinstance(axis, bool)]

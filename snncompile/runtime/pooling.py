"""Pooling layers of a tile, by kernels where windows lie side by side."""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, fx, nn

from snncompile.ir.layers import layer_class
from snncompile.ir.operations import call_name
from snncompile.ir.program import Program
from snncompile.ir.spelling import is_tuple
from snncompile.kernels.pooling import Kind, Window, fits, pool

_LAYERS: dict[type[nn.Module], Kind] = {nn.MaxPool2d: "max", nn.AvgPool2d: "mean"}
_FUNCTIONS: dict[str, Kind] = {"max_pool2d": "max", "avg_pool2d": "mean"}
_PLAIN = {
    "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False,
    "divisor_override": None,
}  # fmt: skip
"""The settings of a layer whose windows neither overlap nor reach over the border."""


WORTH_A_KERNEL = 2**17
"""Elements from which on a kernel saves more than what calling a custom operator costs."""


def pooling(
    program: Program, node: fx.Node
) -> tuple[Callable[..., Tensor], tuple[Any, ...]] | None:
    """What runs in place of a pooling call, and its arguments but for the pooled value.

    Args:
        program: The program.
        node: A call of its step.

    Returns:
        A function and what it takes before the value; None if the call is no pooling.
    """
    if node.op == "call_module":
        known = layer_class(program, node)
        if known not in _LAYERS or len(node.args) != 1 or node.kwargs:
            return None
        alone = str(node.target) in program.single_step
        return pooled_layer, (known.forward if alone else None, _LAYERS[known])
    kind = _FUNCTIONS.get(call_name(node) or "")
    window = _window(kind, *node.args[1:]) if kind and not node.kwargs else None
    return None if window is None else (pooled, (node.target, window))


def pooled_layer(
    layer: nn.Module, forward: Callable[..., Tensor] | None, kind: Kind, x: Tensor
) -> Tensor:
    """A layer's result, by a kernel if its settings, as they are now, allow.

    Args:
        layer: A MaxPool2d or AvgPool2d.
        forward: Of its class for one step; None for a layer that is called itself.
        kind: What it pools.
        x: [N, C, H, W].
    """
    settings: Any = layer
    window = _window(kind, settings.kernel_size, settings.stride)
    plain = all(getattr(layer, name, value) == value for name, value in _PLAIN.items())
    seen = forward is None and (settings._forward_hooks or settings._forward_pre_hooks)
    if window is not None and plain and not seen and _pays(x) and fits(x, window):
        return pool(x, window)
    result: Tensor = layer(x) if forward is None else forward(layer, x)
    return result


def pooled(function: Callable[..., Tensor], window: Window, x: Tensor) -> Tensor:
    """A function's result over windows that lie side by side."""
    if _pays(x) and fits(x, window):
        return pool(x, window)
    return function(x, (window.height, window.width))


def _pays(x: Tensor) -> bool:
    return x.numel() >= WORTH_A_KERNEL


def _window(kind: Kind, size: Any = None, stride: Any = None, *others: Any) -> Window | None:  # noqa: ANN401
    """The window of a pooling whose stride is its size; None if it is another."""
    pair = _pair(size)
    beside = stride is None or stride == [] or _pair(stride) == pair
    return Window(kind, *pair) if pair is not None and beside and not others else None


def _pair(size: Any) -> tuple[int, int] | None:  # noqa: ANN401
    """Rows and columns, of one number or two; None if they are no numbers."""
    pair = (
        cast("tuple[Any, ...]", size) if is_tuple(size) or isinstance(size, list) else (size, size)
    )
    height, width = pair[0], pair[-1]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None

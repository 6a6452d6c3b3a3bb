"""Linear and convolutions, be they layers or calls, as calls that take weight and bias."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, fx
from torch.nn import functional

from snncompile.ir.affine import is_linear
from snncompile.ir.operations import call_name
from snncompile.ir.program import Program, value_of

_FORWARD = ("stride", "padding", "dilation", "groups")
_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1}


Call: TypeAlias = tuple[Callable[..., Tensor], tuple[Any, ...]]


class Convolution(NamedTuple):
    """What torch.convolution takes after the bias, in its order."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def convolution(program: Program, node: fx.Node) -> Convolution | None:
    """The settings of a convolution.

    Args:
        program: The program of the node.
        node: A call of a convolution.

    Returns:
        The settings; None where torch.convolution has no such: padding other than a number of
        zeros.
    """
    dimensions = value_of(node).dim() - 2
    given = _given(program, node)
    if given.get("padding_mode", "zeros") != "zeros" or isinstance(given["padding"], str):
        return None
    stride, padding, dilation, output = (
        _each(given[name], dimensions)
        for name in ("stride", "padding", "dilation", "output_padding")
    )
    return Convolution(stride, padding, dilation, given["transposed"], output, given["groups"])


def is_transposed(program: Program, node: fx.Node) -> bool:
    """Whether a synapse is a transposed convolution, whose weight has its outputs second."""
    settings = None if is_linear(program, node) else convolution(program, node)
    return settings is not None and settings.transposed


def functional_form(program: Program, node: fx.Node) -> Call | None:
    """A Linear or convolution as a call that takes its weight and bias.

    Returns:
        A function of torch.nn.functional and what it takes after the bias; None where there is
        none that pads as the layer does.
    """
    if is_linear(program, node):
        return functional.linear, ()
    settings = convolution(program, node)
    if settings is None:
        return None
    stride, padding, dilation, transposed, output, groups = settings
    if transposed:
        function = getattr(functional, f"conv_transpose{len(stride)}d")
        return function, (stride, padding, output, groups, dilation)
    return getattr(functional, f"conv{len(stride)}d"), (stride, padding, dilation, groups)


def _given(program: Program, node: fx.Node) -> dict[str, Any]:
    if node.op == "call_module":
        layer = program.module(node)
        names = (*_DEFAULTS, "transposed", "padding_mode")
        return {name: getattr(layer, name) for name in names}
    transposed = "transpose" in (call_name(node) or "")
    names = _TRANSPOSED if transposed else _FORWARD
    positional = dict(zip(names, node.args[3:], strict=False))
    return {**_DEFAULTS, **positional, **node.kwargs, "transposed": transposed}


def _each(value: Any, dimensions: int) -> tuple[int, ...]:  # noqa: ANN401
    one = isinstance(value, int)
    return (value,) * dimensions if one else tuple(value)

"""What the operations of a step do along the batch: may many steps run as one larger batch?

An operation *folds* when running it once on the steps laid end to end along the first dimension,
[T * N, ...], gives the results of the steps laid end to end. The tables below name the operations
that are known to; whatever is not named runs step by step, which is always right.
"""

import operator
from collections.abc import Container, Mapping

import torch
from torch import fx
from torch.nn import functional

from snncompile.ir import folding
from snncompile.ir.effects import has_effect
from snncompile.ir.elementwise import is_autograd_function, is_elementwise
from snncompile.ir.folding import Repeats, Rule, first_value
from snncompile.ir.layers import layer_class, layer_folds
from snncompile.ir.program import Program
from snncompile.ir.quantised import QUANTISED


def folded_operands(program: Program, node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """How a stateless call folds its steps into the batch.

    Args:
        program: The program whose step the node belongs to; its nodes hold ``meta["val"]``.
        node: A call that depends on a sequence, or draws random numbers.
        invariant: Holds the nodes whose value is the same at every step.

    Returns:
        The invariant operands that must be repeated once a step, [T * N, ...]; None when the call
        is not known to fold.
    """
    if node.op == "call_module":
        first = first_value(node)
        folds = first is not None and layer_folds(program, node, first.dim())
        return folding.rows(node, invariant) if folds else None
    if is_part(node):
        return frozenset()
    name = call_name(node)
    if is_elementwise(node) or name in _MORE_ELEMENTWISE:
        return folding.aligned(node, invariant)
    rule = _RULES.get(name or "")
    return rule(node, invariant) if rule else None


def is_pure(program: Program, node: fx.Node) -> bool:
    """Whether a call always gives the same result for the same arguments and changes nothing."""
    if has_effect(program, node):
        return False
    if node.op == "call_module":
        return layer_class(program, node) is not None
    if is_elementwise(node) or is_autograd_function(node) or is_size(node):
        return True
    if node.target in QUANTISED:
        return True
    name = call_name(node)
    return name is not None and name not in _DRAWING


def is_size(node: fx.Node) -> bool:
    """Whether a call reads a tensor's size: the same at every step, whatever the tensor holds."""
    return node.target is torch.ops.aten.sym_size.int


def is_part(node: fx.Node) -> bool:
    """Whether the node takes one item of a call that returns several."""
    source = node.args[0] if node.args else None
    return (
        node.target is operator.getitem
        and isinstance(source, fx.Node)
        and isinstance(source.meta.get("val"), (tuple, list))
    )


def is_reshape(node: fx.Node) -> bool:
    """Whether the node lays a tensor's elements out in a shape that its second argument gives."""
    return call_name(node) in _RESHAPES


def call_name(node: fx.Node) -> str | None:
    """The bare name of a call of torch, of an operator or of a tensor's method; else None."""
    if node.op == "call_method":
        return str(node.target)
    name = str(getattr(node.target, "__name__", ""))
    spaces = (torch, functional, operator, torch.Tensor)
    return name if any(getattr(space, name, None) is node.target for space in spaces) else None


_MORE_ELEMENTWISE = frozenset(
    (
        "neg", "negative", "pos", "mul", "sub", "add", "div", "floor_divide", "remainder",
        "absolute", "abs", "clamp", "relu", "sigmoid", "tanh", "exp", "log", "sqrt", "pow", "round",
        "floor", "ceil", "sign", "detach",
        "greater", "less", "greater_equal", "less_equal", "gt", "ge", "lt", "le", "eq", "ne",
        "bitwise_and", "bitwise_or", "bitwise_not", "fmax", "fmin", "clip", "trunc", "frac", "sgn",
        "exp2", "expm1", "log2", "log10", "log1p", "tan", "asin", "acos", "atan", "atan2", "sinh",
        "cosh", "erfc", "addcdiv", "rsub", "isnan", "nan_to_num", "masked_fill", "selu", "celu",
        "mish", "softsign", "logsigmoid", "threshold", "prelu", "hardshrink", "softshrink",
        "tanhshrink", "clone", "contiguous", "float", "double", "half", "bfloat16", "int", "long",
        "bool",
    )
)  # fmt: skip
_RESHAPES: Mapping[str, Rule] = {"reshape": folding.reshape, "view": folding.reshape}
_REDUCTIONS = (
    "mean", "sum", "amax", "amin", "argmax", "argmin", "var", "std", "prod", "all", "any",
    "softmax", "log_softmax", "logsumexp", "cumsum", "cumprod", "select", "narrow", "index_select",
)  # fmt: skip
_SPATIAL = (
    "conv", "conv_transpose", "avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool",
)  # fmt: skip
_RULES: Mapping[str, Rule] = {
    **_RESHAPES,
    **dict.fromkeys(_REDUCTIONS, folding.along(1)),
    **{f"{kind}{n}d": folding.ranked(n + 2) for kind in _SPATIAL for n in (1, 2, 3)},
    **dict.fromkeys(("chunk", "split", "topk"), folding.along(2)),
    **dict.fromkeys(("cat", "concat", "stack"), folding.join),
    **dict.fromkeys(("matmul", "bmm"), folding.matmul),
    **dict.fromkeys(("max", "min"), folding.extreme),
    "unsqueeze": folding.along(1, inserts=True),
    "flip": folding.along(1, "dims"),
    "flatten": folding.along(1, "start_dim"),
    "transpose": folding.swap,
    "swapaxes": folding.swap,
    "permute": folding.permute,
    "getitem": folding.index,
    "pad": folding.pad,
    "batch_norm": folding.batch_norm,
    "layer_norm": folding.layer_norm,
    "linear": folding.ranked(2),
    "embedding": folding.ranked(1),
    "group_norm": folding.ranked(2),
    "interpolate": folding.ranked(3),
    "pixel_shuffle": folding.ranked(4),
    "pixel_unshuffle": folding.ranked(4),
    "dropout1d": folding.ranked(3),
    "dropout2d": folding.ranked(4),
    "dropout3d": folding.ranked(5),
}
_DRAWING = frozenset(
    (
        "dropout1d", "dropout2d", "dropout3d", "gumbel_softmax", "multi_head_attention_forward",
        "fractional_max_pool2d", "fractional_max_pool3d",
    )
)  # fmt: skip
"""Functions of torch.nn that draw random numbers, which torch's operators do not say."""

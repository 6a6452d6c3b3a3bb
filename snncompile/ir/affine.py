"""Which operations commute with accumulation, which need their offset scaled, which do neither.

``tr(x)[t] = decay * tr(x)[t-1] + x[t]`` is linear in x and the same for every element, so that
tr(W x) = W tr(x) for whatever is linear in x and the same at every step. An affine call adds a
constant at every step, tr(W x + b) = W tr(x) + c[t] b, where c accumulates 1. A call that is
neither cannot read accumulations.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import fx, nn

from snncompile.ir.layers import layer_class, uses_batch_statistics
from snncompile.ir.operations import call_name
from snncompile.ir.program import Program


@dataclass(frozen=True)
class Law:
    """What accumulation does to the result of a call.

    Attributes:
        offset: The call adds a constant to what is linear.
        problem: Why it is neither linear nor affine, to follow the node's name; None if it is.
        fix: The way out, when there is a problem.
    """

    offset: bool = False
    problem: str | None = None
    fix: str = ""


Varying: TypeAlias = Container[Any]
"""The operands of a call that are not the same at every step."""

Row: TypeAlias = Law | Callable[[Program, fx.Node, Varying], Law]

SUMS = ("add", "sub")
"""Calls of two operands, either of which may be a constant."""

LINEAR = Law()
AFFINE = Law(offset=True)
_MAXIMUM = Law(problem="takes a maximum", fix="Use average pooling, or a stride in the synapse")
_UNKNOWN = Law(
    problem="is not known to be an affine function of spikes",
    fix="Move it behind a neuron, or build it from linear layers, sums and average pooling",
)


def law(program: Program, node: fx.Node, varying: Varying) -> Law:
    """The law of a stateless call.

    Args:
        program: The program of the call.
        node: The call.
        varying: Its operands that differ from step to step; the others are the same at each.
    """
    if node.op == "call_module":
        known = layer_class(program, node)
        row = LAYERS.get(known, _UNKNOWN) if known else _UNKNOWN
    else:
        row = CALLS.get(call_name(node) or "", _UNKNOWN)
    return row if isinstance(row, Law) else row(program, node, varying)


def is_synapse(program: Program, node: fx.Node) -> bool:
    """Whether a call multiplies by a weight and adds a bias: Linear or a convolution."""
    if node.op == "call_module":
        known = layer_class(program, node)
        return known is not None and LAYERS.get(known) is _biased
    return CALLS.get(call_name(node) or "") is _biased


def is_linear(program: Program, node: fx.Node) -> bool:
    """Whether a synapse has its channels last: Linear."""
    if node.op == "call_module":
        return layer_class(program, node) is nn.Linear
    return call_name(node) == "linear"


def is_normalisation(program: Program, node: fx.Node) -> bool:
    """Whether a call is a BatchNorm."""
    if node.op == "call_module":
        known = layer_class(program, node)
        return known is not None and LAYERS.get(known) is _normalised
    return CALLS.get(call_name(node) or "") is _normalised


def _sum(program: Program, node: fx.Node, varying: Varying) -> Law:
    return _UNKNOWN if node.kwargs else AFFINE


def _product(program: Program, node: fx.Node, varying: Varying) -> Law:
    if sum(operand in varying for operand in node.args) < 2:  # noqa: PLR2004
        return LINEAR
    problem = "multiplies two values that change from step to step"
    return Law(problem=problem, fix="Add them, or multiply by a constant")


def _quotient(program: Program, node: fx.Node, varying: Varying) -> Law:
    if node.args[1] not in varying:
        return LINEAR
    problem = "divides by a value that changes from step to step"
    return Law(problem=problem, fix="Divide by a constant")


def _biased(program: Program, node: fx.Node, varying: Varying) -> Law:
    """A synapse; as a function its weight is its second operand, its bias the third."""
    if node.op == "call_module":
        return AFFINE if getattr(program.module(node), "bias", None) is not None else LINEAR
    weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    if weight in varying:
        problem = "has a weight that changes from step to step"
        return Law(problem=problem, fix="Compute the weight from parameters only")
    return AFFINE if _argument(node, 2, "bias") is not None else LINEAR


def _normalised(program: Program, node: fx.Node, varying: Varying) -> Law:
    if node.op == "call_module":
        trains = uses_batch_statistics(program.module(node))
    else:
        trains = bool(_argument(node, 5, "training"))
    if not trains:
        return AFFINE
    fix = "Call eval() on it, or use the option batchnorm='freeze' or 'standardise'"
    return Law(problem="normalises with the statistics of each batch", fix=fix)


def _dropped(program: Program, node: fx.Node, varying: Varying) -> Law:
    if node.op == "call_module":
        draws = program.module(node).training
    else:
        draws = bool(node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True))  # noqa: PLR2004
    if not draws:
        return LINEAR
    fix = "Use a dropout with one mask for the sequence, such as SpikingJelly's layer.Dropout"
    return Law(problem="draws another mask at every step", fix=fix)


def _padded(program: Program, node: fx.Node, varying: Varying) -> Law:
    mode, value = _argument(node, 2, "mode") or "constant", _argument(node, 3, "value") or 0
    return LINEAR if mode != "constant" or value == 0 else _UNKNOWN


def _argument(node: fx.Node, position: int, keyword: str) -> Any:  # noqa: ANN401
    return node.args[position] if len(node.args) > position else node.kwargs.get(keyword)


def _each(names: str) -> tuple[type[nn.Module], ...]:
    """Layers by name; ``AvgPool_`` stands for those of one, two and three dimensions."""
    spelled = [
        name.replace("_", f"{n}d")
        for name in names.split()
        for n in ((1, 2, 3) if "_" in name else (0,))
    ]
    return tuple(getattr(nn, name) for name in spelled if hasattr(nn, name))


LAYERS: Mapping[type[nn.Module], Row] = {
    **dict.fromkeys(_each("Linear Conv_ ConvTranspose_"), _biased),
    **dict.fromkeys(_each("AvgPool_ AdaptiveAvgPool_ Upsample UpsamplingNearest2d"), LINEAR),
    **dict.fromkeys(_each("UpsamplingBilinear2d PixelShuffle PixelUnshuffle"), LINEAR),
    **dict.fromkeys(_each("Identity Flatten Unflatten ChannelShuffle Unfold Fold"), LINEAR),
    **dict.fromkeys(_each("ZeroPad_ ReflectionPad_ ReplicationPad_ CircularPad_"), LINEAR),
    **dict.fromkeys(_each("BatchNorm_ SyncBatchNorm"), _normalised),
    **dict.fromkeys(_each("Dropout Dropout_ AlphaDropout FeatureAlphaDropout"), _dropped),
    **dict.fromkeys(_each("MaxPool_ AdaptiveMaxPool_"), _MAXIMUM),
}
"""The law of every torch.nn layer that has one; see `law` for the others."""

CALLS: Mapping[str, Row] = {
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(("mul", "matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("truediv", "div"), _quotient),
    **dict.fromkeys(("neg", "clone", "contiguous", "detach", "to", "type_as"), LINEAR),
    **dict.fromkeys(("reshape", "view", "flatten", "permute", "transpose", "movedim"), LINEAR),
    **dict.fromkeys(("squeeze", "unsqueeze", "expand", "repeat", "flip", "roll"), LINEAR),
    **dict.fromkeys(("getitem", "chunk", "split", "narrow", "index_select"), LINEAR),
    **dict.fromkeys(("cat", "concat", "stack"), LINEAR),
    **dict.fromkeys(("sum", "mean"), LINEAR),
    **{f"{kind}{n}d": _biased for kind in ("conv", "conv_transpose") for n in (1, 2, 3)},
    **{f"{kind}{n}d": LINEAR for kind in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3)},
    **{f"{kind}{n}d": _MAXIMUM for kind in ("max_pool", "adaptive_max_pool") for n in (1, 2, 3)},
    **dict.fromkeys(("max", "amax", "maximum", "clamp"), _MAXIMUM),
    **dict.fromkeys(("interpolate", "pixel_shuffle", "pixel_unshuffle", "fold", "unfold"), LINEAR),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), _dropped),
    "linear": _biased,
    "batch_norm": _normalised,
    "pad": _padded,
}
"""The law of every function and method that has one."""

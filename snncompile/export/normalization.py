"""ONNX recipes for normalizations.

A BatchNorm in eval mode becomes a scale and an offset a channel. Both are read off torch's own
batch norm, at one (with mean and bias zero) and at zero, so they carry exactly its rounding; what
remains different is that torch rounds ``x * scale + offset`` once and the file twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.arithmetic import Recipe
from snncompile.export.graph import GraphWriter, Value
from snncompile.export.synapses import Weight, parameter, stored

_TRAINING = "trains; call eval() on the model and capture it again"


def batch_norm(  # noqa: PLR0913, PLR0917
    graph: GraphWriter, value: Value, running_mean: Value | None, running_var: Value | None,
    weight: Value | None = None, bias: Value | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> str:  # fmt: skip
    """The scale and the offset, in this order."""
    if training or running_mean is None or running_var is None:
        raise ExportError(f"the batch norm {_TRAINING}")
    tensors = [_known(item) for item in (running_mean, running_var, weight, bias)]
    scale, offset = folded_batch_norm(tensors, eps)
    name = running_mean.name.removesuffix(".running_mean")
    ones = (1,) * (value.tensor.dim() - 2)
    scaled = graph.op("Mul", value.name, graph.weight(f"{name}.scale", scale.reshape(-1, *ones)))
    return graph.op("Add", scaled, graph.weight(f"{name}.offset", offset.reshape(-1, *ones)))


def folded_batch_norm(tensors: Sequence[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
    """Scale and offset, [C] each, of a BatchNorm in eval mode.

    Args:
        tensors: Running mean, running variance, weight, bias, [C] each; the last two may be None.
        eps: What is added to the variance.
    """
    mean, variance, weight, bias = tensors
    assert mean is not None
    assert variance is not None
    zero = torch.zeros_like(mean)
    with torch.no_grad():
        scale = functional.batch_norm(zero[None] + 1, zero, variance, weight, None, eps=eps)
        offset = functional.batch_norm(zero[None], mean, variance, weight, bias, eps=eps)
    return scale[0], offset[0]


def _known(value: Value | None) -> Tensor | None:
    if value is not None and not isinstance(value, Weight):
        raise ExportError("statistics that are computed have no recipe; use a BatchNorm layer")
    return None if value is None else value.data


def batch_norm_layer(
    graph: GraphWriter, prefix: str, module: nn.BatchNorm1d | nn.BatchNorm2d, value: Value
) -> str:
    """nn.BatchNorm1d, 2d, 3d in eval mode."""
    mean, variance, weight, bias = (
        parameter(prefix, module, name)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(
        graph, value, mean, variance, weight, bias, training=module.training, eps=module.eps
    )


def layer_norm(  # noqa: PLR0913, PLR0917
    graph: GraphWriter, value: Value, normalized_shape: Sequence[int],
    weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5,
) -> str:  # fmt: skip
    """ONNX's own LayerNormalization over the last dimensions."""
    shape = [int(size) for size in normalized_shape]
    scale = stored(graph, weight) if weight else graph.constant(torch.ones(shape), torch.float32)
    inputs = [value.name, scale, *([stored(graph, bias)] if bias else [])]
    return graph.op("LayerNormalization", *inputs, axis=-len(shape), epsilon=eps)


def layer_norm_layer(graph: GraphWriter, prefix: str, module: nn.LayerNorm, value: Value) -> str:
    """nn.LayerNorm."""
    weight, bias = (parameter(prefix, module, name) for name in ("weight", "bias"))
    return layer_norm(graph, value, module.normalized_shape, weight, bias, module.eps)


def group_norm(  # noqa: PLR0913, PLR0917
    graph: GraphWriter, value: Value, num_groups: int, weight: Value | None = None,
    bias: Value | None = None, eps: float = 1e-5,
) -> str:  # fmt: skip
    """Every group normalized by ONNX's InstanceNormalization, then scaled a channel."""
    groups = graph.op("Reshape", value.name, graph.ints(0, num_groups, -1))
    scale, offset = (
        graph.constant(torch.full((num_groups,), v), torch.float32) for v in (1.0, 0.0)
    )
    normal = graph.op("InstanceNormalization", groups, scale, offset, epsilon=eps)
    result = graph.op("Reshape", normal, graph.op("Shape", value.name))
    shape = graph.ints(-1, *(1,) * (value.tensor.dim() - 2))
    for kind, affine in (("Mul", weight), ("Add", bias)):
        if affine is not None:
            result = graph.op(kind, result, graph.op("Reshape", stored(graph, affine), shape))
    return result


def group_norm_layer(graph: GraphWriter, prefix: str, module: nn.GroupNorm, value: Value) -> str:
    """nn.GroupNorm."""
    weight, bias = (parameter(prefix, module, name) for name in ("weight", "bias"))
    return group_norm(graph, value, module.num_groups, weight, bias, module.eps)


NORMALIZATION: Mapping[Callable[..., Any] | str, Recipe] = {
    functional.batch_norm: batch_norm,
    functional.layer_norm: layer_norm,
    functional.group_norm: group_norm,
}
"""Recipes by function."""

NORMALIZATION_LAYERS: Mapping[type[nn.Module], Recipe] = {
    nn.BatchNorm1d: batch_norm_layer,
    nn.BatchNorm2d: batch_norm_layer,
    nn.BatchNorm3d: batch_norm_layer,
    nn.LayerNorm: layer_norm_layer,
    nn.GroupNorm: group_norm_layer,
}
"""Recipes by class."""

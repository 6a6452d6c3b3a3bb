"""ONNX recipes for normalizations, and for layers that do nothing when a network is deployed.

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
from snncompile.export.arithmetic import (
    Recipe,
    clamp,
    elu,
    gelu,
    identity,
    leaky_relu,
    relu6,
    silu,
    softplus,
    unary,
)  # fmt: skip
from snncompile.export.graph import GraphWriter, Value
from snncompile.export.shapes import flatten
from snncompile.export.synapses import Weight, stored

_TRAINING = "trains; call eval() on the model and capture it again"


def batch_norm(  # noqa: PLR0913
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
    graph: GraphWriter, prefix: str, module: nn.modules.batchnorm._BatchNorm, value: Value
) -> str:
    """nn.BatchNorm1d, 2d, 3d in eval mode."""
    names = ("running_mean", "running_var", "weight", "bias")
    found = [getattr(module, name) for name in names]
    weights = [
        None if t is None else Weight(f"{prefix}.{n}", t) for n, t in zip(names, found, strict=True)
    ]
    return batch_norm(graph, value, *weights, training=module.training, eps=module.eps)


def layer_norm(
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
    weight, bias = _affine(prefix, module)
    return layer_norm(graph, value, module.normalized_shape, weight, bias, module.eps)


def group_norm(
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
    for kind, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            result = graph.op(kind, result, graph.op("Reshape", stored(graph, parameter), shape))
    return result


def group_norm_layer(graph: GraphWriter, prefix: str, module: nn.GroupNorm, value: Value) -> str:
    """nn.GroupNorm."""
    weight, bias = _affine(prefix, module)
    return group_norm(graph, value, module.num_groups, weight, bias, module.eps)


def _affine(prefix: str, module: nn.LayerNorm | nn.GroupNorm) -> list[Weight | None]:
    pairs = (("weight", module.weight), ("bias", module.bias))
    return [None if t is None else Weight(f"{prefix}.{n}", t) for n, t in pairs]


def dropout(graph: GraphWriter, value: Value, p: float = 0.5, training: bool = True) -> str:
    """Nothing, in eval mode."""
    if training and p > 0:
        raise ExportError(f"the dropout {_TRAINING}")
    return value.name


def _dropout_layer(graph: GraphWriter, prefix: str, module: nn.Dropout, value: Value) -> str:
    return dropout(graph, value, module.p, module.training)


def _layer(function: Recipe, *settings: str) -> Recipe:
    """A layer that calls a function with its own settings, in order."""

    def recipe(graph: GraphWriter, prefix: str, module: nn.Module, value: Value) -> Any:  # noqa: ANN401
        return function(graph, value, *(getattr(module, name) for name in settings))

    return recipe


NORMALIZATION: Mapping[Callable[..., Any] | str, Recipe] = {
    functional.batch_norm: batch_norm,
    functional.layer_norm: layer_norm,
    functional.group_norm: group_norm,
    functional.dropout: dropout,
    functional.dropout2d: dropout,
}
"""Recipes by function."""

NORMALIZATION_LAYERS: Mapping[type[nn.Module], Recipe] = {
    nn.BatchNorm1d: batch_norm_layer,
    nn.BatchNorm2d: batch_norm_layer,
    nn.BatchNorm3d: batch_norm_layer,
    nn.LayerNorm: layer_norm_layer,
    nn.GroupNorm: group_norm_layer,
    nn.Dropout: _dropout_layer,
    nn.Dropout1d: _dropout_layer,
    nn.Dropout2d: _dropout_layer,
    nn.Dropout3d: _dropout_layer,
    nn.Identity: _layer(identity),
    nn.Flatten: _layer(flatten, "start_dim", "end_dim"),
    nn.ReLU: _layer(unary("Relu")),
    nn.Sigmoid: _layer(unary("Sigmoid")),
    nn.Tanh: _layer(unary("Tanh")),
    nn.ReLU6: _layer(relu6),
    nn.Hardtanh: _layer(clamp, "min_val", "max_val"),
    nn.LeakyReLU: _layer(leaky_relu, "negative_slope"),
    nn.ELU: _layer(elu, "alpha"),
    nn.SiLU: _layer(silu),
    nn.GELU: _layer(gelu, "approximate"),
    nn.Softplus: _layer(softplus, "beta", "threshold"),
}
"""Recipes by class."""

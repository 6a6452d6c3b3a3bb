"""ONNX recipes for activations, and for layers that do nothing when a network is deployed."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.arithmetic import Recipe, clamp, identity, unary
from snncompile.export.graph import GraphWriter, Number, Value
from snncompile.export.shapes import flatten


def relu6(graph: GraphWriter, value: Value) -> str:
    """A ReLU that saturates at six."""
    return clamp(graph, value, 0.0, 6.0)


def hardtanh(
    graph: GraphWriter, value: Value, min_val: Number = -1.0, max_val: Number = 1.0
) -> str:
    """The value, clamped."""
    return clamp(graph, value, min_val, max_val)


def leaky_relu(graph: GraphWriter, value: Value, negative_slope: float = 0.01) -> str:
    """A ReLU with a slope below zero."""
    return graph.op("LeakyRelu", value.name, alpha=negative_slope)


def elu(graph: GraphWriter, value: Value, alpha: float = 1.0) -> str:
    """Exponential below zero."""
    return graph.op("Elu", value.name, alpha=alpha)


def silu(graph: GraphWriter, value: Value) -> str:
    """``x * sigmoid(x)``."""
    return graph.op("Mul", value.name, graph.op("Sigmoid", value.name))


def gelu(graph: GraphWriter, value: Value, approximate: str = "none") -> str:
    """``x * (1 + erf(x / sqrt 2)) / 2``."""
    if approximate != "none":
        raise ExportError("only the exact GELU has a recipe; use approximate='none'")
    dtype = value.tensor.dtype
    scaled = graph.op("Mul", value.name, graph.constant(0.5**0.5, dtype))
    share = graph.op("Add", graph.op("Erf", scaled), graph.constant(1.0, dtype))
    return graph.op("Mul", graph.op("Mul", value.name, graph.constant(0.5, dtype)), share)


def softplus(graph: GraphWriter, value: Value, beta: float = 1.0, threshold: float = 20.0) -> str:
    """``log(1 + exp(beta x)) / beta``, and x itself above the threshold."""
    dtype = value.tensor.dtype
    scaled = graph.op("Mul", value.name, graph.constant(beta, dtype))
    smooth = graph.op("Div", graph.op("Softplus", scaled), graph.constant(beta, dtype))
    linear = graph.op("Greater", scaled, graph.constant(threshold, dtype))
    return graph.op("Where", linear, value.name, smooth)


def dropout(graph: GraphWriter, value: Value, p: float = 0.5, training: bool = True) -> str:
    """Nothing, in eval mode."""
    if training and p > 0:
        raise ExportError("the dropout trains; call eval() on the model and capture it again")
    return value.name


def _layer(function: Recipe, *settings: str) -> Recipe:
    """A layer that calls a function with its own settings, in order."""

    def recipe(graph: GraphWriter, prefix: str, module: nn.Module, value: Value) -> Any:  # noqa: ANN401
        return function(graph, value, *(getattr(module, name) for name in settings))

    return recipe


ACTIVATIONS: Mapping[Callable[..., Any] | str, Recipe] = {
    functional.relu6: relu6,
    functional.hardtanh: hardtanh,
    functional.leaky_relu: leaky_relu,
    functional.elu: elu,
    functional.silu: silu,
    functional.gelu: gelu,
    functional.softplus: softplus,
    functional.dropout: dropout,
    functional.dropout2d: dropout,
}
"""Recipes by function."""

ACTIVATION_LAYERS: Mapping[type[nn.Module], Recipe] = {
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _layer(dropout, "p", "training")
    ),
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

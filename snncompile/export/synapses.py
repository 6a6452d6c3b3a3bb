"""ONNX recipes for layers with weights: linear maps and convolutions.

A synapse is a product, then a bias as a separate Add: a later encoding of the weights (packed
bits, a scale a channel) changes `stored` and what follows the product, nothing else. A Gemm with
a bias is never written, since it would start the sum from the bias.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.arithmetic import Recipe
from snncompile.export.graph import Attribute, GraphWriter, Value
from snncompile.export.shapes import pad as padded


class Weight(Value):
    """A parameter whose numbers are known while the graph is written."""

    @property
    def data(self) -> Tensor:
        """The numbers."""
        return self.tensor


def stored(graph: GraphWriter, weight: Value, *, transposed: bool = False) -> str:
    """The operand of a product that a weight becomes: here, float32 as it is."""
    if not isinstance(weight, Weight):
        return graph.op("Transpose", weight.name, perm=[1, 0]) if transposed else weight.name
    if transposed:
        return graph.weight(f"{weight.name}.transposed", weight.data.t())
    return graph.weight(weight.name, weight.data)


def linear(graph: GraphWriter, value: Value, weight: Value, bias: Value | None = None) -> str:
    """``x @ weight.T``, then the bias."""
    product = graph.op("MatMul", value.name, stored(graph, weight, transposed=True))
    return product if bias is None else graph.op("Add", product, stored(graph, bias))


def _over_channels(graph: GraphWriter, product: str, bias: Value | None, spatial: int) -> str:
    """The product plus a bias a channel."""
    if bias is None:
        return product
    if isinstance(bias, Weight):
        shaped = graph.weight(f"{bias.name}.spatial", bias.data.reshape(-1, *(1,) * spatial))
    else:
        shaped = graph.op("Reshape", bias.name, graph.ints(-1, *(1,) * spatial))
    return graph.op("Add", product, shaped)


def _each(setting: int | Sequence[int], count: int) -> list[int]:
    """A setting for every spatial dimension."""
    values = [setting] if isinstance(setting, int) else list(setting)
    return values * count if len(values) == 1 else values


def _pads(
    padding: str | int | Sequence[int], kernel: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Pads of all dimensions, before then after."""
    if isinstance(padding, str):
        reach = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)
        ]
        return [total // 2 for total in reach] + [total - total // 2 for total in reach]
    return _each(padding, len(kernel)) * 2


def convolution_attributes(
    kernel: list[int], stride: int | Sequence[int] = 1, padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1, groups: int = 1,
) -> dict[str, Attribute]:  # fmt: skip
    """What torch's settings of a convolution are in ONNX."""
    dilations = _each(dilation, len(kernel))
    return {
        "kernel_shape": kernel,
        "pads": _pads(padding, kernel, dilations),
        "strides": _each(stride, len(kernel)),
        "dilations": dilations,
        "group": groups,
    }


def convolution(  # noqa: PLR0913, PLR0917
    graph: GraphWriter, value: Value, weight: Value, bias: Value | None = None,
    stride: int | Sequence[int] = 1, padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1, groups: int = 1,
) -> str:  # fmt: skip
    """A convolution of any number of dimensions, then the bias."""
    kernel = [int(size) for size in weight.tensor.shape[2:]]
    attributes = convolution_attributes(kernel, stride, padding, dilation, groups)
    product = graph.op("Conv", value.name, stored(graph, weight), **attributes)
    return _over_channels(graph, product, bias, len(kernel))


def transposed_convolution(  # noqa: PLR0913, PLR0917
    graph: GraphWriter, value: Value, weight: Value, bias: Value | None = None,
    stride: int | Sequence[int] = 1, padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0, groups: int = 1, dilation: int | Sequence[int] = 1,
) -> str:  # fmt: skip
    """A transposed convolution, then the bias."""
    kernel = [int(size) for size in weight.tensor.shape[2:]]
    count = len(kernel)
    product = graph.op(
        "ConvTranspose", value.name, stored(graph, weight), kernel_shape=kernel, group=groups,
        strides=_each(stride, count), dilations=_each(dilation, count),
        pads=_each(padding, count) * 2, output_padding=_each(output_padding, count),
    )  # fmt: skip
    return _over_channels(graph, product, bias, count)


def _around(
    padding: str | Sequence[int], kernel: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Pads as torch lists them: before and after, from the last dimension to the first."""
    count = len(kernel)
    pads = _pads(padding, kernel, dilations)
    return [pads[end * count + axis] for axis in reversed(range(count)) for end in (0, 1)]


def parameter(prefix: str, module: nn.Module, name: str) -> Weight | None:
    """A parameter or buffer of a layer as its forward reads it, so that parametrizations apply."""
    tensor: Tensor | None = getattr(module, name)
    return None if tensor is None else Weight(f"{prefix}.{name}", tensor)


def _required(prefix: str, module: nn.Module, name: str) -> Weight:
    weight = parameter(prefix, module, name)
    assert weight is not None
    return weight


def linear_layer(graph: GraphWriter, prefix: str, module: nn.Linear, value: Value) -> str:
    """nn.Linear."""
    weight = _required(prefix, module, "weight")
    return linear(graph, value, weight, parameter(prefix, module, "bias"))


def convolution_layer(
    graph: GraphWriter, prefix: str, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, value: Value
) -> str:
    """nn.Conv1d, 2d and 3d; padding that is not zeros is a Pad in front."""
    weight, bias = _required(prefix, module, "weight"), parameter(prefix, module, "bias")
    padding: str | tuple[int, ...] = module.padding
    if module.padding_mode != "zeros":
        around = _around(module.padding, module.kernel_size, module.dilation)
        value = Value(padded(graph, value, around, module.padding_mode), value.like)
        padding = (0,) * len(module.kernel_size)
    return convolution(
        graph, value, weight, bias, module.stride, padding, module.dilation, module.groups
    )


Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def transposed_convolution_layer(
    graph: GraphWriter, prefix: str, module: Transposed, value: Value
) -> str:
    """nn.ConvTranspose1d, 2d and 3d."""
    if isinstance(module.padding, str):
        raise ExportError("padding by name has no recipe here; give numbers")
    return transposed_convolution(
        graph, value, _required(prefix, module, "weight"), parameter(prefix, module, "bias"),
        module.stride, module.padding, module.output_padding, module.groups, module.dilation,
    )  # fmt: skip


SYNAPSES: Mapping[Callable[..., Any] | str, Recipe] = {
    functional.linear: linear,
    torch.conv1d: convolution,
    torch.conv2d: convolution,
    torch.conv3d: convolution,
    functional.conv1d: convolution,
    functional.conv2d: convolution,
    functional.conv3d: convolution,
    torch.conv_transpose1d: transposed_convolution,
    torch.conv_transpose2d: transposed_convolution,
    torch.conv_transpose3d: transposed_convolution,
    functional.conv_transpose1d: transposed_convolution,
    functional.conv_transpose2d: transposed_convolution,
    functional.conv_transpose3d: transposed_convolution,
}
"""Recipes by function."""

SYNAPSE_LAYERS: Mapping[type[nn.Module], Recipe] = {
    nn.Linear: linear_layer,
    nn.Conv1d: convolution_layer,
    nn.Conv2d: convolution_layer,
    nn.Conv3d: convolution_layer,
    nn.ConvTranspose1d: transposed_convolution_layer,
    nn.ConvTranspose2d: transposed_convolution_layer,
    nn.ConvTranspose3d: transposed_convolution_layer,
}
"""Recipes by class; they take the layer's target and the layer before its inputs."""

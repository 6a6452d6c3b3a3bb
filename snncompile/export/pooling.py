"""ONNX recipes for pooling and for changing the resolution.

Windows must tile their input: a ceil mode that would add a partial window, or an adaptive pool
whose windows differ in size, is refused with the sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from snncompile.errors import ExportError
from snncompile.export.arithmetic import Recipe
from snncompile.export.graph import GraphWriter, Value

Sizes: TypeAlias = int | Sequence[int]


def _spatial(value: Value, count: int) -> list[int]:
    return [int(size) for size in value.tensor.shape[-count:]]


def _each(setting: Sizes, count: int) -> list[int]:
    values = [setting] if isinstance(setting, int) else list(setting)
    return values * count if len(values) == 1 else values


def _check_ceil(
    inputs: list[int], window: list[int], stride: list[int], padding: list[int]
) -> None:
    rests = [
        (size + 2 * pad - reach) % step
        for size, reach, step, pad in zip(inputs, window, stride, padding, strict=True)
    ]
    if any(rests):
        raise ExportError(
            f"ceil_mode adds a partial window to an input of {tuple(inputs)}; pad the input instead"
        )


def _average(count: int) -> Recipe:
    def recipe(  # noqa: PLR0913, PLR0917
        graph: GraphWriter, value: Value, kernel_size: Sizes, stride: Sizes | None = None,
        padding: Sizes = 0, ceil_mode: bool = False, count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> str:  # fmt: skip
        if divisor_override is not None:
            raise ExportError("divisor_override has no recipe; scale the result instead")
        kernel, pads = _each(kernel_size, count), _each(padding, count)
        strides = _each(stride or kernel_size, count)
        if ceil_mode:
            _check_ceil(_spatial(value, count), kernel, strides, pads)
        return graph.op(
            "AveragePool", value.name, kernel_shape=kernel, strides=strides, pads=pads * 2,
            count_include_pad=int(count_include_pad),
        )  # fmt: skip

    return recipe


def _maximum(count: int) -> Recipe:
    def recipe(  # noqa: PLR0913, PLR0917
        graph: GraphWriter, value: Value, kernel_size: Sizes, stride: Sizes | None = None,
        padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> str:  # fmt: skip
        if return_indices:
            raise ExportError("return_indices has no recipe; pool without indices")
        kernel, pads = _each(kernel_size, count), _each(padding, count)
        strides, dilations = _each(stride or kernel_size, count), _each(dilation, count)
        if ceil_mode:
            window = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
            _check_ceil(_spatial(value, count), window, strides, pads)
        return graph.op(
            "MaxPool", value.name, kernel_shape=kernel, strides=strides, pads=pads * 2,
            dilations=dilations,
        )  # fmt: skip

    return recipe


def interpolate(
    graph: GraphWriter, value: Value, size: Sizes | None = None,
    scale_factor: float | Sequence[float] | None = None, mode: str = "nearest", **other: object,
) -> str:  # fmt: skip
    """Nearest-neighbour resizing by whole factors; nothing when they are one."""
    count = value.tensor.dim() - 2
    inputs = _spatial(value, count)
    if size is None:
        factors = (
            scale_factor if isinstance(scale_factor, Sequence) else [scale_factor or 1] * count
        )
    else:
        factors = [out / whole for out, whole in zip(_each(size, count), inputs, strict=True)]
    if mode != "nearest" or any(factor != int(factor) for factor in factors):
        raise ExportError("only nearest-neighbour resizing by whole factors has a recipe")
    if all(factor == 1 for factor in factors):
        return value.name
    scales = graph.constant(torch.tensor([1.0, 1.0, *factors]), torch.float32)
    return graph.op(
        "Resize", value.name, "", scales, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


def _adaptive(count: int, kind: str) -> Recipe:
    def recipe(graph: GraphWriter, value: Value, output_size: int | Sequence[int | None]) -> str:
        inputs = _spatial(value, count)
        given = [output_size] * count if isinstance(output_size, int) else list(output_size)
        wanted = [size or whole for size, whole in zip(given, inputs, strict=True)]
        pairs = list(zip(wanted, inputs, strict=True))
        if all(size % whole == 0 for size, whole in pairs):
            return interpolate(graph, value, wanted)
        if any(whole % size for size, whole in pairs):
            raise ExportError(
                f"an adaptive pool from {tuple(inputs)} to {tuple(wanted)} has windows of several "
                "sizes; choose sizes that divide the input's, or multiples of them"
            )
        window = [whole // size for size, whole in pairs]
        return graph.op(kind, value.name, kernel_shape=window, strides=window)

    return recipe


def _with(function: Recipe, *settings: str) -> Recipe:
    """A layer that calls a function with its own settings, by keyword."""

    def recipe(graph: GraphWriter, prefix: str, module: nn.Module, value: Value) -> Any:  # noqa: ANN401
        given = {name: getattr(module, name) for name in settings}
        return function(graph, value, **given)

    return recipe


_AVERAGES = {count: _average(count) for count in (1, 2, 3)}
_MAXIMA = {count: _maximum(count) for count in (1, 2, 3)}
_ADAPTIVE_AVERAGES = {count: _adaptive(count, "AveragePool") for count in (1, 2, 3)}
_ADAPTIVE_MAXIMA = {count: _adaptive(count, "MaxPool") for count in (1, 2, 3)}
_MAX_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE_SETTINGS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

POOLING: Mapping[Callable[..., Any] | str, Recipe] = {
    functional.avg_pool1d: _AVERAGES[1],
    functional.avg_pool2d: _AVERAGES[2],
    functional.avg_pool3d: _AVERAGES[3],
    torch.max_pool1d: _MAXIMA[1],
    torch.max_pool2d: _MAXIMA[2],
    torch.max_pool3d: _MAXIMA[3],
    functional.max_pool1d: _MAXIMA[1],
    functional.max_pool2d: _MAXIMA[2],
    functional.max_pool3d: _MAXIMA[3],
    torch.adaptive_avg_pool1d: _ADAPTIVE_AVERAGES[1],
    functional.adaptive_avg_pool1d: _ADAPTIVE_AVERAGES[1],
    functional.adaptive_avg_pool2d: _ADAPTIVE_AVERAGES[2],
    functional.adaptive_avg_pool3d: _ADAPTIVE_AVERAGES[3],
    functional.adaptive_max_pool1d: _ADAPTIVE_MAXIMA[1],
    functional.adaptive_max_pool2d: _ADAPTIVE_MAXIMA[2],
    functional.adaptive_max_pool3d: _ADAPTIVE_MAXIMA[3],
    functional.interpolate: interpolate,
}
"""Recipes by function."""

POOLING_LAYERS: Mapping[type[nn.Module], Recipe] = {
    nn.AvgPool1d: _with(_AVERAGES[1], *_AVERAGE_SETTINGS),
    nn.AvgPool2d: _with(_AVERAGES[2], *_AVERAGE_SETTINGS, "divisor_override"),
    nn.AvgPool3d: _with(_AVERAGES[3], *_AVERAGE_SETTINGS, "divisor_override"),
    nn.MaxPool1d: _with(_MAXIMA[1], *_MAX_SETTINGS),
    nn.MaxPool2d: _with(_MAXIMA[2], *_MAX_SETTINGS),
    nn.MaxPool3d: _with(_MAXIMA[3], *_MAX_SETTINGS),
    nn.AdaptiveAvgPool1d: _with(_ADAPTIVE_AVERAGES[1], "output_size"),
    nn.AdaptiveAvgPool2d: _with(_ADAPTIVE_AVERAGES[2], "output_size"),
    nn.AdaptiveAvgPool3d: _with(_ADAPTIVE_AVERAGES[3], "output_size"),
    nn.AdaptiveMaxPool1d: _with(_ADAPTIVE_MAXIMA[1], "output_size"),
    nn.AdaptiveMaxPool2d: _with(_ADAPTIVE_MAXIMA[2], "output_size"),
    nn.AdaptiveMaxPool3d: _with(_ADAPTIVE_MAXIMA[3], "output_size"),
    nn.Upsample: _with(interpolate, "size", "scale_factor", "mode"),
}
"""Recipes by class."""

"""The entry: a neuron's scan by a kernel, where there can be one."""

import os
import threading
import warnings
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from snncompile.kernels.build import BuildError
from snncompile.kernels.kernel import generate
from snncompile.kernels.operators import neuron_scan, register
from snncompile.kernels.settings import Settings, identity, split
from snncompile.kernels.step import Definition, NotElementwiseError

Function = TypeVar("Function", bound=Callable[..., Any])
Results = tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]

SWITCH = "SNNCOMPILE_KERNELS"
"""The environment variable that, set to "off", has every scan run as a loop in torch."""

_keys: dict[Hashable, str] = {}
_lock = threading.Lock()


def fused_scan(
    neuron: Callable[..., tuple[Tensor, ...]],
    current: Tensor,
    states: tuple[Tensor, ...],
    settings: Settings,
    wanted: Collection[int],
) -> Results | None:
    """Run a neuron over a sequence with one kernel, generated and compiled at first use.

    Spikes and states are bit-equal to those of the loop over time. In the backward pass denormal
    numbers count as 0.

    Args:
        neuron: One of `snncompile.ir.neurons`, or any function of that form.
        current: Its input, [T, N, ...].
        states: Its states before the first step, each [N, ...].
        settings: Its keyword arguments, by name.
        wanted: Which of its results are kept at every step: 0 is the output, then the states.

    Returns:
        For every result its sequence [T, N, ...], or None where it is not wanted, and the states
        after the last step; None if there is no kernel for this: the neuron is not elementwise
        arithmetic of fixed rounding, a tensor is not on the CPU or not all of them are of one
        dtype (float32 or float64), there is no compiler, or SNNCOMPILE_KERNELS is "off".
    """
    found: list[Tensor] = []
    numbers = split(settings, found)
    if not _fit(current, states, found):
        return None
    tensors = (current, *states, *found)
    grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    key = _kernel(
        neuron,
        numbers,
        len(states),
        tuple(setting.numel() == 1 for setting in found),
        current.dtype,
        tuple(wanted),
        tuple(grad and tensor.requires_grad for tensor in tensors),
    )
    if not key:
        return None
    outputs = neuron_scan(key, current, list(states), found)
    kept = dict(zip(wanted, outputs, strict=False))
    finals = outputs[len(kept) : len(kept) + len(states)]
    return tuple(kept.get(i) for i in range(1 + len(states))), tuple(finals)


def _fit(current: Tensor, states: tuple[Tensor, ...], settings: list[Tensor]) -> bool:
    """Whether all tensors are such as kernels take: plain, on the CPU, of one dtype."""
    if current.dtype not in (torch.float32, torch.float64) or current.dim() < 1:
        return False
    shape = current.shape[1:]
    return (
        current.shape[0] > 0
        and all(_is_plain(tensor, current) for tensor in (current, *states, *settings))
        and all(state.shape == shape for state in states)
        and all(_broadcasts(setting.shape, shape) for setting in settings)
    )


def _is_plain(tensor: Tensor, current: Tensor) -> bool:
    known = type(tensor) in (Tensor, torch.nn.Parameter, FakeTensor)
    same = tensor.dtype == current.dtype and tensor.device.type == "cpu"
    return known and same and tensor.layout == torch.strided


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    if len(shape) > len(to):
        return False
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return all(size in (1, full) for size, full in pairs)


def _while_tracing(function: Function) -> Function:
    """Have torch.compile run a function for real while it traces, and keep its result."""
    return cast("Function", cast("Any", torch.compiler).assume_constant_result(function))


@_while_tracing
def _kernel(  # noqa: PLR0913
    neuron: Callable[..., tuple[Tensor, ...]],
    settings: Settings,
    states: int,
    scalars: tuple[bool, ...],
    dtype: torch.dtype,
    wanted: tuple[int, ...],
    differentiable: tuple[bool, ...],
) -> str:
    """The key of a kernel, generated when it is new; "" where there can be none."""
    if os.environ.get(SWITCH) == "off":
        return ""
    definition = Definition(neuron, settings, states, scalars, dtype, wanted, differentiable)
    known = (neuron, identity(settings), states, scalars, dtype, wanted, differentiable)
    with _lock:
        if known not in _keys:
            _keys[known] = _generated(definition)
        return _keys[known]


def _generated(definition: Definition) -> str:
    try:
        return register(generate(definition))
    except NotElementwiseError:
        return ""
    except BuildError as error:
        if "there is no" not in str(error):
            warnings.warn(f"scans run as loops in torch: {error}", RuntimeWarning, stacklevel=2)
        return ""

"""The entry: a neuron's scan by a kernel, where there can be one."""

import os
import threading
import warnings
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from snncompile.kernels.build import BuildError
from snncompile.kernels.kernel import generate
from snncompile.kernels.operators import neuron_scan, register
from snncompile.kernels.settings import Settings, identity
from snncompile.kernels.step import Definition, NotElementwiseError
from snncompile.kernels.tracing import while_tracing

Results = tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]

SWITCH = "SNNCOMPILE_KERNELS"
"""The environment variable that, set to "off", has every scan run as a loop in torch."""


_keys: dict[Hashable, str] = {}
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class FusedScan:
    """Scans of one neuron by kernels, which are generated and compiled at first use.

    Spikes and states are bit-equal to those of the loop over time. In the backward pass denormal
    numbers count as 0.

    Attributes:
        neuron: One of `snncompile.ir.neurons`, or any function of that form.
        settings: Its keyword arguments, by name, with holes for tensors.
    """

    neuron: Callable[..., tuple[Tensor, ...]]
    settings: Settings

    def __call__(
        self,
        current: Tensor,
        states: tuple[Tensor, ...],
        tensors: Sequence[Tensor],
        wanted: Collection[int],
    ) -> Results | None:
        """Run the neuron over a sequence.

        Args:
            current: Its input, [T, N, ...].
            states: Its states before the first step, each [N, ...].
            tensors: What goes into the holes of its settings.
            wanted: Which of its results are kept at every step: 0 is the output, then the states.

        Returns:
            For every result its sequence [T, N, ...], or None where it is not wanted, and the
            states after the last step; None if there is no kernel for this: the neuron is not
            elementwise arithmetic of fixed rounding, a tensor is not on the CPU or not all of
            them are of one dtype (float32 or float64), there is no compiler, or
            SNNCOMPILE_KERNELS is "off".
        """
        if not _fit(current, states, tensors):
            return None
        operands = (current, *states, *tensors)
        grad = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
        key = self._kernel(
            tuple(setting.numel() == 1 for setting in tensors),
            current.dtype,
            tuple(wanted),
            tuple(grad and operand.requires_grad for operand in operands),
        )
        if not key:
            return None
        outputs = neuron_scan(key, current, list(states), list(tensors))
        kept = dict(zip(wanted, outputs, strict=False))
        finals = outputs[len(kept) : len(kept) + len(states)]
        return tuple(kept.get(i) for i in range(1 + len(states))), tuple(finals)

    @while_tracing
    def _kernel(
        self,
        scalars: tuple[bool, ...],
        dtype: torch.dtype,
        wanted: tuple[int, ...],
        differentiable: tuple[bool, ...],
    ) -> str:
        """The key of a kernel, generated when it is new; "" where there can be none."""
        if os.environ.get(SWITCH) == "off":
            return ""
        states = len(differentiable) - len(scalars) - 1
        shape = (states, scalars, dtype, wanted, differentiable)
        known = (self.neuron, identity(self.settings), *shape)
        with _lock:
            if known not in _keys:
                _keys[known] = _generated(Definition(self.neuron, self.settings, *shape))
            return _keys[known]


def _fit(current: Tensor, states: tuple[Tensor, ...], settings: Sequence[Tensor]) -> bool:
    """Whether all tensors are such as kernels take: plain, on the CPU, of one dtype."""
    if current.dtype not in (torch.float32, torch.float64) or current.dim() < 1:
        return False
    shape = current.shape[1:]
    return (
        current.shape[0] > 0
        and not _is_transformed()
        and all(_is_plain(tensor, current) for tensor in (current, *states, *settings))
        and all(state.shape == shape for state in states)
        and all(_broadcasts(setting.shape, shape) for setting in settings)
    )


def _is_transformed() -> bool:
    """Whether torch.func (vmap, grad, ...) is at work, which kernels know nothing of."""
    if torch.compiler.is_compiling():
        return False
    functions: Any = cast("Any", torch)._C._functorch
    return functions.maybe_current_level() is not None


def _is_plain(tensor: Tensor, current: Tensor) -> bool:
    known = type(tensor) in (Tensor, torch.nn.Parameter, FakeTensor)
    same = tensor.dtype == current.dtype and tensor.device.type == "cpu"
    return known and same and tensor.layout == torch.strided


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    if len(shape) > len(to):
        return False
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return all(size in (1, full) for size, full in pairs)


def _generated(definition: Definition) -> str:
    try:
        return register(generate(definition))
    except NotElementwiseError:
        return ""
    except BuildError as error:
        if "there is no" not in str(error):
            warnings.warn(f"scans run as loops in torch: {error}", RuntimeWarning, stacklevel=2)
        return ""

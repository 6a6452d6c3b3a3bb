"""The entry: a neuron's scan by a kernel, where there can be one."""

import os
import threading
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from snncompile.kernels.build import BuildError
from snncompile.kernels.cpu import Cpu
from snncompile.kernels.kernel import generate
from snncompile.kernels.operands import SWITCH, is_strided, is_transformed
from snncompile.kernels.operators import neuron_scan, register
from snncompile.kernels.settings import Settings, identity
from snncompile.kernels.step import Definition, NotElementwiseError
from snncompile.kernels.target import Target
from snncompile.kernels.tracing import while_tracing
from snncompile.kernels.triton.target import Gpu

Results = tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]

TARGETS: Mapping[str, Target] = {"cpu": Cpu(), "cuda": Gpu()}
"""By the type of the device that tensors are on."""

_keys: dict[Hashable, str] = {}
_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class FusedScan:
    """Scans of one neuron by kernels, which are generated and compiled at first use.

    Spikes and states are bit-equal to those of the loop over time on the same device. In the
    backward pass on the CPU denormal numbers count as 0.

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
            elementwise arithmetic of fixed rounding, not all tensors are of one dtype (float32
            or float64) and on one device (the CPU or a GPU of CUDA's), there is no compiler, or
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
            current.device.type,
        )
        if not key:
            return None
        outputs = neuron_scan(key, current, list(states), list(tensors))
        kept = dict(zip(wanted, outputs, strict=False))
        finals = outputs[len(kept) : len(kept) + len(states)]
        return tuple(kept.get(i) for i in range(1 + len(states))), tuple(finals)

    @cached_property
    def _identity(self) -> Hashable:
        return identity(self.settings)

    @while_tracing
    def _kernel(
        self,
        scalars: tuple[bool, ...],
        dtype: torch.dtype,
        wanted: tuple[int, ...],
        differentiable: tuple[bool, ...],
        device: str,
    ) -> str:
        """The key of a kernel, generated when it is new; "" where there can be none."""
        switch = os.environ.get(SWITCH)
        if switch == "off":
            return ""
        target = TARGETS["cuda" if switch == "triton" else device]
        states = len(differentiable) - len(scalars) - 1
        shape = (states, scalars, dtype, wanted, differentiable, device)
        known = (target.name, self.neuron, self._identity, *shape)
        with _lock:
            if known not in _keys:
                _keys[known] = _generated(Definition(self.neuron, self.settings, *shape), target)
            return _keys[known]


def _fit(current: Tensor, states: tuple[Tensor, ...], settings: Sequence[Tensor]) -> bool:
    """Whether all tensors are such as kernels take: plain, on one device, of one dtype."""
    if current.dtype not in (torch.float32, torch.float64) or current.dim() < 1:
        return False
    if current.device.type not in TARGETS:
        return False
    shape = current.shape[1:]
    return (
        current.shape[0] > 0
        and not is_transformed()
        and all(_is_like(tensor, current) for tensor in (current, *states, *settings))
        and all(state.shape == shape for state in states)
        and all(_broadcasts(setting.shape, shape) for setting in settings)
    )


def _is_like(tensor: Tensor, current: Tensor) -> bool:
    same = tensor.dtype == current.dtype and tensor.device == current.device
    return same and is_strided(tensor)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    if len(shape) > len(to):
        return False
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return all(size in (1, full) for size, full in pairs)


def _generated(definition: Definition, target: Target) -> str:
    try:
        return register(generate(definition, target))
    except NotElementwiseError:
        return ""
    except BuildError as error:
        if "there is no" not in str(error):
            warnings.warn(f"scans run as loops in torch: {error}", RuntimeWarning, stacklevel=2)
        return ""

# pyright: basic
"""SpikingJelly's layers: those that are a torch.nn layer over time, dropout, and containers.

A layer of the library is the torch.nn layer it derives from; with ``step_mode='m'`` it folds time
into the batch, so one step of it is that layer. Containers do the same for what they hold, or run
it step by step. Dropout draws one mask for a whole sequence and keeps it until it is reset.
"""

from collections.abc import Callable
from functools import partial

import torch
from spikingjelly.activation_based import base
from spikingjelly.activation_based import layer as library
from torch import Tensor, nn

from snncompile.frontends.lowering import Lowering
from snncompile.frontends.spikingjelly_neurons import LibraryModule, Memory, Neuron

MASK = Memory("mask", "mask", unset=-1.0)
"""Dropout's mask; its entries are never negative, so -1 says that none has been drawn yet."""

_DROPOUT_DEFINING = ("forward", "single_step_functional_forward", "multi_step_functional_forward")


_BATCH_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    library.ThresholdDependentBatchNorm1d: nn.BatchNorm1d,
    library.ThresholdDependentBatchNorm2d: nn.BatchNorm2d,
    library.ThresholdDependentBatchNorm3d: nn.BatchNorm3d,
}
"""Batch norms that differ from torch's in how their weight starts."""


def torch_layer(module: LibraryModule) -> type[nn.Module] | None:
    """The torch.nn class that is one step of a stateless layer in either step mode, else None."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith(library.__name__ + "."):
            return _BATCH_NORMS.get(kind) or _wrapped(kind)
        if "forward" in vars(kind):
            return None
    return None


def _wrapped(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The torch.nn class that a layer class of the library wraps without changing it."""
    inner, *others = kind.__bases__
    wraps = others == [base.StepModule] and inner.__module__.startswith("torch.nn.modules.")
    return inner if wraps and inner not in (nn.Module, nn.Sequential) else None


def _mode(container: LibraryModule) -> tuple[str, bool]:
    return container.step_mode, container.stateful


def one_step(module: LibraryModule) -> Callable[[Tensor], Tensor] | None:
    """What a module that only repeats its inner step over a sequence does in one step.

    Args:
        module: Any module; it must be a container that loops over time, a voting layer, or a
            layer with standardised weights, with ``step_mode='m'``.

    Returns:
        Its step on [N, ...] tensors, plain calls that a capture can record; else None.
    """
    kind = type(module)
    looping = kind is library.StepModeContainer and _mode(module) == ("m", True)
    if kind is library.MultiStepContainer or looping:
        return partial(_through, module)
    if kind is library.VotingLayer and module.step_mode == "m":
        return partial(library.VotingLayer.single_step_forward, module)
    if kind is library.WSConv2d and module.step_mode == "m":
        return partial(library.WSConv2d._forward, module)
    return None


def _through(container: LibraryModule, value: Tensor) -> Tensor:
    """What a container holds, one after the other."""
    for inner in container:
        value = inner(value)
    return value


def is_dropout(module: nn.Module) -> bool:
    """Dropout with one mask for a sequence."""
    for kind in type(module).__mro__:
        if kind in (library.Dropout, library.Dropout2d):
            return True
        if any(name in vars(kind) for name in _DROPOUT_DEFINING):
            return False
    return False


def dropout(module: LibraryModule, inputs: Tensor) -> Neuron:
    """One training step of dropout: the mask of the first step, drawn anew after a reset.

    For a sequence the candidate is drawn once, before the steps, as the library does; step by
    step it is drawn in every step and used in the first.

    Args:
        module: The layer.
        inputs: What it is called with: [N, ...], or [T, N, ...] if its step_mode is 'm'.
    """
    drawn: Tensor | None = None
    if module.step_mode == "m":
        ones = torch.ones(inputs.shape[1:], dtype=inputs.dtype, device=inputs.device)
        drawn = module.create_mask(ones)

    def step(
        module: LibraryModule,
        lowering: Lowering,
        current: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        candidate = module.create_mask(current) if drawn is None else drawn
        mask = torch.where(mask < 0, candidate, mask)
        return current * mask, mask

    return Neuron(step, (MASK,))

"""Synapses that add up events: what a layer runs as where the pass `event-driven` marked it."""

from typing import cast

import torch
from torch import Tensor, nn

from snncompile.ir.events import Events
from snncompile.kernels.event_operators import event_linear
from snncompile.kernels.operands import is_plain
from snncompile.runtime.choices import choices

_LEAST = 2**25
"""Multiplications of a product that takes half a millisecond."""

_ALWAYS, _NEVER = 2.0, -1.0
"""Shares of active inputs that all shares are below, and above."""

_WATCHED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def by_events(layer: nn.Linear, spikes: Tensor, events: Events) -> Tensor:
    """What a Linear makes of spikes.

    Args:
        layer: The Linear; of a library's layers, which may take whole sequences, one step.
        spikes: [R, ..., M]. Any values are right.
        events: How to choose, and where to report.

    Returns:
        [R, ..., M']. The dense product where there is no kernel: for other dtypes and devices,
        under autocast and torch.func, without a compiler, and where hooks watch the layer.
    """
    weight, bias = layer.weight, cast("Tensor | None", layer.bias)
    if not _fit(spikes, weight) or has_hooks(layer) or _idles(events, spikes, weight):
        return one_step(layer, spikes)
    rows = spikes.reshape(-1, spikes.shape[-1])
    return _product(rows, weight, bias, events).view(*spikes.shape[:-1], len(weight))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, events: Events) -> Tensor:
    """The product; in what runs again it goes the way that it went first."""
    made = None if torch.compiler.is_compiling() else choices()
    repeated = None if made is None else made.repeated()
    below = events.below if repeated is None else _ALWAYS if repeated else _NEVER
    out: Tensor
    out, _, size = event_linear(rows, weight, bias, below, events.number)
    if made is not None and repeated is None:
        made.noted(bool(size != 0))
    return out


def _idles(events: Events, spikes: Tensor, weight: Tensor) -> bool:
    """Whether the layer multiplies without a look; as it did first, in what runs again."""
    made = None if torch.compiler.is_compiling() else choices()
    repeated = None if made is None else made.repeated()
    idle = _is_idle(events, spikes, weight) if repeated is None else repeated
    if made is not None and repeated is None:
        made.noted(idle)
    return idle


def _is_idle(events: Events, spikes: Tensor, weight: Tensor) -> bool:
    """Whether a look at the spikes would take too long for what it may save."""
    if events.below is not None:
        return False
    small = spikes.numel() * len(weight) < _LEAST
    return small or (not torch.compiler.is_compiling() and events.rests())


def one_step(layer: nn.Linear, spikes: Tensor) -> Tensor:
    """One step of a Linear, whatever its own forward takes."""
    plain = type(layer).forward is nn.Linear.forward
    return cast("Tensor", layer(spikes) if plain else nn.Linear.forward(layer, spikes))


def has_hooks(layer: nn.Module) -> bool:
    """Whether something watches the layer's calls, and wants to see spikes."""
    return any(getattr(layer, name) for name in _WATCHED)


def _fit(spikes: Tensor, weight: Tensor) -> bool:
    """Whether the tensors are such as kernels take, and of one dtype."""
    plain = is_plain(spikes) and is_plain(weight) and spikes.dtype == weight.dtype
    return plain and not torch.is_autocast_enabled("cpu")

"""Synapses that add up events: what a layer runs as where the pass `event-driven` marked it."""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from snncompile.ir.events import Events
from snncompile.ir.layers import has_hooks
from snncompile.kernels.event_convolution import event_convolution
from snncompile.kernels.event_operators import event_linear
from snncompile.kernels.event_traces import event_traces
from snncompile.kernels.operands import is_plain
from snncompile.runtime.choices import choices

Product: TypeAlias = tuple[Tensor, ...]
"""What the operators return: the product first; last, 0 where no events were added up."""

_LEAST = 2**25
"""Multiplications of a product that takes half a millisecond."""

_ALWAYS, _NEVER = 2.0, -1.0
"""Shares of active inputs that all shares are below, and above."""

_MAP = 4
"""Dimensions of a batch of maps."""


def by_events(
    layer: nn.Linear | nn.Conv2d, spikes: Tensor, events: Events, steps: int = 1
) -> Tensor:
    """What a layer makes of spikes, or of leaky counts of spikes.

    Args:
        layer: A Linear or a Conv2d; of a library's layers, which may take whole sequences, a step.
        spikes: [R, ..., M], or [R, C, H, W]. Any values are right.
        events: How to choose, and where to report.
        steps: Where R is steps times samples, and `spikes` are counts: how many.

    Returns:
        [R, ..., M'], or [R, M', H', W']. The dense product where there is no kernel: for other
        dtypes and devices, under autocast and torch.func, without a compiler, for groups of
        channels and borders other than zeros, and where hooks watch the layer.
    """
    weight = layer.weight
    if not _fit(spikes, weight) or has_hooks(layer):
        return one_step(layer, spikes)
    if isinstance(layer, nn.Linear):
        return _linear(layer, spikes, events, steps)
    bias, moves = layer.bias, strides(layer)
    if moves is None or spikes.dim() != _MAP or _idles(events, _work(spikes, weight, moves)):
        return one_step(layer, spikes)

    def product(below: float | None) -> Product:
        found: Product = event_convolution(spikes, weight, bias, moves, below, events.number)
        return found

    return _product(product, events)


def _linear(layer: nn.Linear, spikes: Tensor, events: Events, steps: int) -> Tensor:
    weight, bias = layer.weight, cast("Tensor | None", layer.bias)
    alone = events.decay is not None and steps == 1
    if alone or _idles(events, spikes.numel() * len(weight)):
        return one_step(layer, spikes)
    rows = spikes.reshape(-1, spikes.shape[-1])
    decay = events.decay

    def product(below: float | None) -> Product:
        number = events.number
        found: Product = (
            event_linear(rows, weight, bias, below, number)
            if decay is None
            else event_traces(rows, weight, bias, decay, steps, below, number)
        )
        return found

    return _product(product, events).view(*spikes.shape[:-1], len(weight))


def strides(layer: nn.Conv2d) -> tuple[int, ...] | None:
    """Stride, padding and dilation, vertically and horizontally; None if it is not to be added up.

    It is not for groups of channels, and borders other than as many zeros on either side.
    """
    if layer.groups != 1 or layer.padding_mode != "zeros":
        return None
    wide = [gap * (taps - 1) for gap, taps in zip(layer.dilation, layer.kernel_size, strict=True)]
    match layer.padding:
        case "same" if any(width % 2 for width in wide):
            return None
        case "same":
            padding = tuple(width // 2 for width in wide)
        case "valid":
            padding = (0, 0)
        case given:
            padding = cast("tuple[int, int]", given)
    return (*layer.stride, *padding, *layer.dilation)


def _work(spikes: Tensor, weight: Tensor, moves: tuple[int, ...]) -> int:
    """About how many multiplications a convolution takes."""
    return spikes.numel() * weight[:, 0].numel() // (moves[0] * moves[1])


def _product(run: Callable[[float | None], Product], events: Events) -> Tensor:
    """The product; in what runs again it goes the way that it went first."""
    made = None if torch.compiler.is_compiling() else choices()
    repeated = None if made is None else made.repeated()
    out, *_, size = run(events.below if repeated is None else _ALWAYS if repeated else _NEVER)
    if made is not None and repeated is None:
        made.noted(bool(size != 0))
    return out


def _idles(events: Events, work: int) -> bool:
    """Whether the layer multiplies without a look; as it did first, in what runs again."""
    made = None if torch.compiler.is_compiling() else choices()
    repeated = None if made is None else made.repeated()
    idle = _is_idle(events, work) if repeated is None else repeated
    if made is not None and repeated is None:
        made.noted(idle)
    return idle


def _is_idle(events: Events, work: int) -> bool:
    """Whether a look at the spikes would take too long for what it may save."""
    if events.below is not None:
        return False
    return work < _LEAST or (not torch.compiler.is_compiling() and events.rests())


def one_step(layer: nn.Module, spikes: Tensor) -> Tensor:
    """One step of a Linear or a Conv2d, whatever its own forward takes."""
    forward: Any = nn.Linear.forward if isinstance(layer, nn.Linear) else nn.Conv2d.forward
    plain = type(layer).forward is forward
    return cast("Tensor", layer(spikes) if plain else forward(layer, spikes))


def _fit(spikes: Tensor, weight: Tensor) -> bool:
    """Whether the tensors are such as kernels take, and of one dtype."""
    plain = is_plain(spikes) and is_plain(weight) and spikes.dtype == weight.dtype
    return plain and not torch.is_autocast_enabled("cpu")

"""Online learning (OTTT) in a network of any shape, written out step by step with autograd.

A signal is what a neuron sends: its spikes, and one trace for every decay that a consumer has. A
synapse takes its value from the spikes and its gradient from the trace; the past is constant. A
test writes one step of its network with these pieces, in float64::

    neuron, x_t = Lif(decay=0.5, slope=slope), given(x[t], [0.5])
    hidden = neuron(synapse(x_t, fc1, 0.5))
    logits = synapse(hidden, fc2, 0.5)

What has no parameters (pooling, concatenation, a residual sum) goes through `Signal.through`,
`joined` and `+`; what comes from an earlier step through `Signal.past`.

Reference: Xiao et al. 2022, arXiv:2210.04195.
"""

# pyright: basic

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

Operation: TypeAlias = Callable[[Tensor], Tensor]


class _ValueFrom(torch.autograd.Function):
    """The second argument's value with the first one's gradient."""

    @staticmethod
    def forward(ctx: Any, path: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


class _Fire(torch.autograd.Function):
    """H(distance) with a given derivative."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, slope: Operation) -> Tensor:
        ctx.slope = slope(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.slope, None


_value_from: Callable[[Tensor, Tensor], Tensor] = _ValueFrom.apply
_fire: Callable[[Tensor, Operation], Tensor] = _Fire.apply


@dataclass(frozen=True)
class Signal:
    """Spikes without gradient, and the traces, by decay, that carry it; each [N, ...]."""

    spikes: Tensor
    traces: dict[float, Tensor]

    def through(self, operation: Operation) -> "Signal":
        """An operation without parameters, linear, on spikes and traces."""
        traces = {decay: operation(trace) for decay, trace in self.traces.items()}
        return Signal(operation(self.spikes), traces)

    def __add__(self, other: "Signal") -> "Signal":
        return _together(torch.Tensor.add, (self, other))

    def past(self) -> "Signal":
        """The same signal as a constant, for use in a later step."""
        return self.through(torch.Tensor.detach)


def joined(signals: Iterable[Signal], axis: int = 1) -> Signal:
    """Concatenation."""
    return _together(lambda *parts: torch.cat(parts, axis), tuple(signals))


def _together(operation: Callable[..., Tensor], signals: Sequence[Signal]) -> Signal:
    decays = signals[0].traces
    traces = {decay: operation(*(signal.traces[decay] for signal in signals)) for decay in decays}
    return Signal(operation(*(signal.spikes for signal in signals)), traces)


def given(x: Tensor, decays: Iterable[float], before: Signal | None = None) -> Signal:
    """The input of one step.

    Args:
        x: The step's input, [N, ...].
        decays: Those of the consumers.
        before: The last step's signal, for a first layer that learns from the trace of x; without
            it, it learns from x alone, as in the published code.
    """
    if before is None:
        return Signal(x, dict.fromkeys(decays, x))
    return Signal(x, {decay: decay * before.traces[decay] + x for decay in decays})


def synapse(
    signal: Signal, operation: Operation, decay: float, path: Operation | None = None
) -> Tensor:
    """The current that an operation with parameters makes of a signal.

    Args:
        signal: What arrives.
        operation: Its value is that on the spikes.
        decay: Picks the trace: that of the neuron that gets the current.
        path: What is differentiated, on the trace; the operation itself if not given.
    """
    with torch.no_grad():
        value = operation(signal.spikes)
    differentiated = (path or operation)(signal.traces[decay])
    return _value_from(differentiated, value)


@dataclass
class Lif:
    """A layer of neurons and its state: u = decay * (u - threshold * s) + current, s = H(u - h).

    Attributes:
        decay: Of the membrane.
        slope: The surrogate derivative, as a function of u - threshold.
        threshold: h.
        consumers: The decays of the neurons that read this one; its own if not given.
        membrane: u of the last step, before its reset.
    """

    decay: float
    slope: Operation
    threshold: float = 1.0
    consumers: tuple[float, ...] = ()
    membrane: Tensor | None = None
    last: Signal | None = field(default=None, repr=False)

    def __call__(self, current: Tensor) -> Signal:
        """One step."""
        kept = torch.zeros_like(current)
        if self.membrane is not None and self.last is not None:
            kept = self.membrane - self.threshold * self.last.spikes
        membrane = self.decay * kept + current
        fired = _fire(membrane - self.threshold, self.slope)
        traces = {
            decay: fired if self.last is None else decay * self.last.traces[decay] + fired
            for decay in self.consumers or (self.decay,)
        }
        signal = Signal(fired.detach(), traces)
        self.membrane, self.last = membrane.detach(), signal.past()
        return signal

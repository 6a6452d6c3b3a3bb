"""Networks as people write them in plain torch: the time loop inside forward, state by hand."""

# pyright: basic

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Fire(torch.autograd.Function):
    """A surrogate as found in many a repository: Heaviside forward, a bump backward."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        gradient: Tensor = grad_outputs[0] / (1 + 10 * distance.abs()) ** 2
        return gradient


fire: Callable[[Tensor], Tensor] = Fire.apply
"""Bound when this module is imported, as people do."""


class HandWritten(nn.Module):
    """A layer of hand-written LIF neurons; returns all spikes and the last membrane."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.decay = nn.Parameter(torch.tensor(0.75))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        membrane = torch.zeros(x.size(1), 8, dtype=x.dtype)
        spikes = []
        for t in range(x.size(0)):
            membrane = self.decay * membrane + self.layer(x[t])
            spike = fire(membrane - 1.0)
            membrane = membrane - spike.detach()
            spikes.append(spike)
        return torch.stack(spikes), membrane


class NumbersFirst(nn.Module):
    """State that starts as a Python number, and a static input fed at every step."""

    def __init__(self, steps: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        membrane: Any = 0.0
        total: Any = 0.0
        for _ in range(self.steps):
            membrane = 0.5 * membrane + self.layer(x)
            spike = fire(membrane - 1.0)
            membrane = membrane - spike
            total = total + spike
        rate: Tensor = total / self.steps
        return rate


class BatchFirst(nn.Module):
    """Time is the second axis; outputs are written into a buffer; a recurrent connection."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 8)
        self.back = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        spike = torch.zeros(x.shape[0], 8)
        out = torch.zeros(x.shape[1], x.shape[0], 8)
        for t, x_t in enumerate(x.unbind(1)):
            spike = fire(self.into(x_t) + self.back(spike) - 0.5)
            out[t] = spike
        return {"spikes": out.transpose(0, 1), "last": spike, "kind": "recurrent"}


class Residual(nn.Module):
    """Convolutions, BatchNorm, an in-place residual add, a shared layer, a head after the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = second = torch.zeros(x.shape[1], 4, *x.shape[3:])
        recorded = []
        for x_t in x:
            first = 0.5 * first + self.stem(x_t)
            spike = fire(first - 0.25)
            first = first - spike
            second = 0.5 * second + self.shared(self.shared(spike)) + 0.25
            out = fire(second - 0.25)
            second = second - out
            out += spike
            recorded.append(out.mean((2, 3)))
        scores: Tensor = self.head(torch.stack(recorded).mean(0))
        return scores


class Delayed(nn.Module):
    """Reads its own spikes of two steps ago, concatenates what it emits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        older = old = x.new_zeros(x.size(1), 8)
        out = []
        for x_t in x:
            spike = fire(self.layer(x_t) - 0.5 * older)
            older, old = old, spike
            out.append(spike)
        return torch.cat(out, 1)


class Reductions(nn.Module):
    """Everything that can be done with a list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        membrane = torch.zeros(x.size(1), 8)
        rows = []
        for x_t in x:
            membrane = 0.5 * membrane + self.layer(x_t)
            rows.append(membrane)
        stacked = torch.stack(rows, 1)
        every = torch.stack(rows)
        total: Any = sum(rows)
        return stacked, every.sum(0), every.mean(dim=0), every.max(0)[0], rows[-1], total

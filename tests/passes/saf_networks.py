"""Networks that spike accumulation forwarding is shown on, in plain torch; small, of every shape.

All neurons are LIF with decay 1/2 (one network has another too), threshold 1, a subtracting reset
that carries no gradient, and a sigmoid surrogate. Outputs are the read-out's of every step,
[T, N, classes]. `saf_cases` lists them with inputs, SpikingJelly's forms and dyadic parameters.
"""
# pyright: basic

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

import snncompile.nn as own

VGG11: Sequence[int | None] = (64, 128, None, 256, 256, None, 512, 512, None, 512, 512)
"""Channels of the OTTT paper's VGG (arXiv:2210.04195); None is an average pooling."""

GAIN = 2.74
"""What the OTTT code multiplies spikes with where weights are standardised."""

Layers: TypeAlias = list[nn.Module]


def lif(decay: float = 0.5) -> own.LIF:
    return own.LIF(decay=decay, surrogate="sigmoid", width=4.0, detach_reset=True)


class Stepwise(nn.Module, ABC):
    """A network whose steps are alike: `step`, and the loop."""

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """One time step."""

    def forward(self, x: Tensor) -> Tensor:
        own.reset(self)
        return torch.stack([self.step(x_t) for x_t in x])


class Chain(Stepwise):
    """One layer after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def step(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        return outputs


def mlp(widths: Sequence[int] = (16, 32, 24, 4)) -> Chain:
    """Linear and LIF for every pair of widths, the last pair the read-out."""
    layers: Layers = []
    *hidden, last = pairwise(widths)
    for into, out in hidden:
        layers += [nn.Linear(into, out), lif()]
    return Chain(*layers, nn.Linear(last[0], last[1]))


class WSConv2d(nn.Conv2d):
    """A convolution of standardised weights: mean 0, variance 1 / fan-in, times a learned gain."""

    def __init__(self, into: int, out: int, eps: float = 1e-4) -> None:
        super().__init__(into, out, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(out, 1, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True)
        fan_in = math.prod(self.weight.shape[1:])
        weight = (self.weight - mean) / (variance * fan_in + self.eps).sqrt() * self.gain
        return functional.conv2d(x, weight, self.bias, padding=1)


class Scale(nn.Module):
    """Spikes times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def vgg(width: float = 1 / 16, classes: int = 4, gain: float = GAIN) -> Chain:
    """The VGG of the OTTT paper, its channels times `width`: any even input size from 8 on."""
    layers, channels = Layers(), 3
    for out in VGG11:
        if out is None:
            layers.append(nn.AvgPool2d(2))
            continue
        layers += [WSConv2d(channels, round(out * width)), lif(), Scale(gain)]
        channels = round(out * width)
    head = nn.Linear(channels, classes)
    return Chain(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class Residual(Stepwise):
    """Adds currents over a strided shortcut, adds spikes, joins two branches, pools between."""

    def __init__(self, channels: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(2, channels), nn.BatchNorm2d(channels), lif())
        self.first = nn.Sequential(_conv(channels, channels), lif())
        self.second = nn.Sequential(_conv(channels, channels), nn.BatchNorm2d(channels))
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=2)
        self.joint = lif()
        self.pool = nn.AvgPool2d(2)
        self.left = nn.Sequential(_conv(channels, channels), lif())
        self.right = nn.Sequential(nn.Conv2d(channels, channels, 1), lif())
        self.head = nn.Linear(2 * channels, classes)

    def step(self, x: Tensor) -> Tensor:
        spikes = self.stem(x)
        current = self.second(self.pool(self.first(spikes))) + self.shortcut(spikes)
        joint = self.joint(current)
        left = self.left(joint) + joint
        both = torch.cat([left, self.right(joint)], 1)
        outputs: Tensor = self.head(self.pool(both).mean((2, 3)))
        return outputs


def _conv(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)


class Recurrent(nn.Module):
    """Spikes of the last step come back through a Linear."""

    def __init__(self, inputs: int = 12, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(inputs, width), nn.Linear(width, width)
        self.lif, self.head = lif(), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        own.reset(self)
        spikes = x.new_zeros(x.size(1), self.into.out_features)
        outputs = []
        for x_t in x:
            spikes = self.lif(self.into(x_t) + self.back(spikes))
            outputs.append(self.head(spikes))
        return torch.stack(outputs)


class TwoDecays(Stepwise):
    """One neuron's spikes reach neurons of two decays, one of them another than its own."""

    def __init__(self, inputs: int = 12, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.into, self.slow, self.fast = (
            nn.Linear(size, width) for size in (inputs, width, width)
        )
        self.first, self.slow_lif, self.fast_lif = lif(), lif(0.5), lif(0.25)
        self.last, self.last_lif = nn.Linear(width, width), lif(0.5)
        self.head = nn.Linear(width, classes)

    def step(self, x: Tensor) -> Tensor:
        spikes = self.first(self.into(x))
        slow, fast = self.slow_lif(self.slow(spikes)), self.fast_lif(self.fast(spikes))
        outputs: Tensor = self.head(self.last_lif(self.last(slow + fast)))
        return outputs


class SharedSynapse(Stepwise):
    """One Linear between three layers of neurons, used twice."""

    def __init__(self, inputs: int = 12, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.into, self.shared = nn.Linear(inputs, width), nn.Linear(width, width)
        self.first, self.second, self.third = lif(), lif(), lif()
        self.head = nn.Linear(width, classes)

    def step(self, x: Tensor) -> Tensor:
        second = self.second(self.shared(self.first(self.into(x))))
        outputs: Tensor = self.head(self.third(self.shared(second)))
        return outputs


class Delayed(nn.Module):
    """A skip connection that arrives two steps late."""

    def __init__(self, inputs: int = 12, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.into, self.skip, self.middle, self.last = (
            nn.Linear(size, width) for size in (inputs, width, width, width)
        )
        self.first, self.second, self.third = lif(), lif(), lif()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        own.reset(self)
        older = old = x.new_zeros(x.size(1), self.skip.in_features)
        outputs = []
        for x_t in x:
            first = self.first(self.into(x_t))
            second = self.second(self.middle(first))
            outputs.append(self.head(self.third(self.last(second) + self.skip(older))))
            older, old = old, first
        return torch.stack(outputs)

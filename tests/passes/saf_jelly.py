"""Four of the networks of `saf_networks` as SpikingJelly's users write them.

Parameters and outputs are those of the plain form, in the same order.
"""
# pyright: basic

from collections.abc import Sequence
from itertools import pairwise

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from tests.passes.saf_networks import GAIN, VGG11, Layers, Scale


def lif() -> neuron.LIFNode:
    return neuron.LIFNode(
        tau=2.0,
        decay_input=False,
        v_reset=None,
        detach_reset=True,
        surrogate_function=surrogate.Sigmoid(alpha=4.0),
    )


def multistep(model: nn.Module) -> nn.Module:
    functional.set_step_mode(model, "m")
    return model


def mlp(widths: Sequence[int] = (16, 32, 24, 4)) -> nn.Module:
    layers: Layers = []
    *hidden, last = pairwise(widths)
    for into, out in hidden:
        layers += [layer.Linear(into, out), lif()]
    return multistep(nn.Sequential(*layers, layer.Linear(last[0], last[1])))


def vgg(width: float = 1 / 16, classes: int = 4, gain: float = GAIN) -> nn.Module:
    layers, channels = Layers(), 3
    for out in VGG11:
        if out is None:
            layers.append(layer.AvgPool2d(2))
            continue
        conv = layer.WSConv2d(channels, round(out * width), 3, padding=1)
        layers += [conv, lif(), Scale(gain)]
        channels = round(out * width)
    layers += [layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(channels, classes)]
    return multistep(nn.Sequential(*layers))


class Residual(nn.Module):
    def __init__(self, channels: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(2, channels), layer.BatchNorm2d(channels), lif())
        self.first = nn.Sequential(_conv(channels, channels), lif())
        self.second = nn.Sequential(_conv(channels, channels), layer.BatchNorm2d(channels))
        self.shortcut = layer.Conv2d(channels, channels, 1, stride=2)
        self.joint = lif()
        self.pool = layer.AvgPool2d(2)
        self.left = nn.Sequential(_conv(channels, channels), lif())
        self.right = nn.Sequential(layer.Conv2d(channels, channels, 1), lif())
        self.head = layer.Linear(2 * channels, classes)
        multistep(self)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.stem(x)
        current = self.second(self.pool(self.first(spikes))) + self.shortcut(spikes)
        joint = self.joint(current)
        left = self.left(joint) + joint
        both = torch.cat([left, self.right(joint)], 2)
        outputs: Tensor = self.head(self.pool(both).mean((3, 4)))
        return outputs


def _conv(into: int, out: int) -> layer.Conv2d:
    return layer.Conv2d(into, out, 3, padding=1)


class Recurrent(nn.Module):
    """Single steps in a loop: no container of the library feeds spikes back through a layer."""

    def __init__(self, inputs: int = 12, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.into, self.back = layer.Linear(inputs, width), layer.Linear(width, width)
        self.lif, self.head = lif(), layer.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        spikes = x.new_zeros(x.size(1), self.into.out_features)
        outputs = []
        for x_t in x:
            spikes = self.lif(self.into(x_t) + self.back(spikes))
            outputs.append(self.head(spikes))
        return torch.stack(outputs)

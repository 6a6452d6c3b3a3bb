"""Networks that passes are tried on: a perceptron, a VGG, the pre-activation ResNet-18.

All loop over [T, N, ...] in forward and return [T, N, classes], with neurons of snncompile.nn.
The ResNet has the shape that Hao et al. (2024, arXiv:2410.07547) train on CIFAR: neuron,
convolution and BatchNorm, in that order, twice a block.
"""

# pyright: basic

import torch
from torch import Tensor, nn

from snncompile.nn import LIF, reset


class Network(nn.Module):
    """Runs `layers` once a step."""

    layers: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        reset(self)
        return torch.stack([self.layers(x_t) for x_t in x])


class Perceptron(Network):
    """Linear and LIF, twice, and a classifier."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, width), LIF(),
            nn.Linear(width, width), LIF(),
            nn.Linear(width, 5),
        )  # fmt: skip


def _convolved(read: int, written: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(read, written, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(written),
    ]


class VGG(Network):
    """Convolution, BatchNorm and LIF in a chain, with average pooling, and a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        lif = LIF
        self.layers = nn.Sequential(
            *_convolved(2, width), lif(), *_convolved(width, width), lif(), nn.AvgPool2d(2),
            *_convolved(width, 2 * width), lif(), *_convolved(2 * width, 2 * width), lif(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2 * width * 4, 5),
        )  # fmt: skip


class Block(nn.Module):
    """Neuron, convolution, BatchNorm, twice; the shortcut reads the first neuron's spikes."""

    def __init__(self, read: int, written: int, stride: int) -> None:
        super().__init__()
        self.act1, self.act2 = LIF(), LIF()
        self.conv1 = nn.Sequential(*_convolved(read, written, stride))
        self.conv2 = nn.Sequential(*_convolved(written, written))
        same = stride == 1 and read == written
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(read, written, 1, stride=stride, bias=False), nn.BatchNorm2d(written)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.act1(x)
        changed: Tensor = self.conv2(self.act2(self.conv1(spikes)))
        kept: Tensor = self.shortcut(spikes)
        return kept + changed


class PreActResNet18(Network):
    """Eight blocks of 64 to 512 channels on [T, N, 3, 32, 32]; 11.2 million weights."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = [(width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)]
        blocks, read = [], width
        for written, stride in sizes:
            blocks += [Block(read, written, stride), Block(written, written, 1)]
            read = written
        self.layers = nn.Sequential(
            nn.Sequential(*_convolved(3, width)), *blocks, LIF(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(read, 10),
        )  # fmt: skip


def lively_(model: nn.Module) -> nn.Module:
    """Statistics as after training, some scales negative, such that neurons fire; in place."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.0, 0.75)
            module.running_mean = torch.rand_like(module.weight) - 0.5
            module.running_var = torch.rand_like(module.weight) + 0.5
            with torch.no_grad():
                module.weight[::4] *= -1
        elif isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -0.5, 0.6)
    return model

"""The networks of the online-learning benchmarks, each twice with the same parameters.

Once from SpikingJelly's modules for OTTT (one step a call, spikes and traces between layers),
once from its ordinary modules over whole sequences, which is what snncompile transforms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_vggws_ottt as zoo
from torch import nn

DYNAMICS = {
    "tau": 2.0,
    "decay_input": False,
    "v_reset": None,
    "detach_reset": True,
}
"""Of every neuron: decay 1/2, a subtracting reset without gradient, threshold 1."""

VGG_GAIN, VGG_BIAS = 1.5, 0.25
"""At birth the VGG's later layers are silent; with these every layer fires."""

Make = Callable[[type[neuron.LIFNode]], nn.Module]


@dataclass(frozen=True)
class Pair:
    """One network in two forms.

    Attributes:
        ottt: Takes a step, [N, ...], and returns the step's logits, [N, classes].
        plain: Takes a sequence, [T, N, ...], and returns all logits, [T, N, classes].
        shape: One sample of one step.
    """

    ottt: nn.Module
    plain: nn.Module
    shape: tuple[int, ...]


def mlp(widths: Sequence[int] = (512, 512, 512, 512, 10), gain: float = 4.0) -> Pair:
    """Linear layers and neurons, and a linear read-out; `gain` multiplies the weights at birth."""

    def make(kind: type[neuron.LIFNode]) -> nn.Module:
        *hidden, last = pairwise(widths)
        layers: list[nn.Module] = []
        for into, out in hidden:
            layers += [layer.Linear(into, out), _neuron(kind)]
        return layer.OTTTSequential(*layers, layer.Linear(*last))

    return _pair(make, (widths[0],), gain)


def convnet(channels: int = 16, classes: int = 10, gain: float = 3.0) -> Pair:
    """Two convolutions with average pooling and a linear read-out, for images of 8 x 8."""

    def make(kind: type[neuron.LIFNode]) -> nn.Module:
        return layer.OTTTSequential(
            layer.Conv2d(1, channels, 3, padding=1),
            _neuron(kind),
            layer.AvgPool2d(2),
            layer.Conv2d(channels, 2 * channels, 3, padding=1),
            _neuron(kind),
            layer.AvgPool2d(2),
            layer.Flatten(),
            layer.Linear(8 * channels, classes),
        )

    return _pair(make, (1, 8, 8), gain)


def vgg(classes: int = 10, size: int = 32) -> Pair:
    """The OTTT paper's VGG-11 with weight standardisation (arXiv:2210.04195)."""

    def make(kind: type[neuron.LIFNode]) -> nn.Module:
        function = surrogate.Sigmoid(alpha=4.0)
        model = zoo.ottt_spiking_vggws(
            kind, num_classes=classes, surrogate_function=function, **DYNAMICS
        )
        for module in model.modules():
            if isinstance(module, layer.WSConv2d):
                nn.init.constant_(module.gain, VGG_GAIN)
                nn.init.constant_(module.bias, VGG_BIAS)
        return model

    return _pair(make, (3, size, size), 1.0)


def _neuron(kind: type[neuron.LIFNode]) -> neuron.LIFNode:
    return kind(surrogate_function=surrogate.Sigmoid(alpha=4.0), **DYNAMICS)


def _pair(make: Make, shape: tuple[int, ...], gain: float) -> Pair:
    ottt, plain = make(neuron.OTTTLIFNode), make(neuron.LIFNode)
    with torch.no_grad():
        for module in ottt.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight.mul_(gain)
    plain.load_state_dict(ottt.state_dict())
    functional.set_step_mode(plain, "m")
    return Pair(ottt.train(), plain.train(), shape)

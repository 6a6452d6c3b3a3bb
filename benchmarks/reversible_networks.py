"""The networks of the reversible benchmark, of SpikingJelly's modules over whole sequences."""

from collections.abc import Sequence
from itertools import pairwise

from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn


def lif() -> nn.Module:
    """SpikingJelly's neuron as it is by default, over sequences."""
    return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode="m")


def mlp(widths: Sequence[int]) -> nn.Module:
    """Linear layers with neurons between them."""
    modules: list[nn.Module] = [layer.Linear(widths[0], widths[1])]
    for into, out in pairwise(widths[1:]):
        modules += [lif(), layer.Linear(into, out)]
    return _multi_step(nn.Sequential(*modules))


def vgg(channels: Sequence[int | None], size: int, into: int) -> nn.Module:
    """Convolutions with BatchNorm and neurons; None is an average pooling."""
    modules: list[nn.Module] = []
    for out in channels:
        if out is None:
            modules.append(layer.AvgPool2d(2))
            size //= 2
        else:
            convolution = layer.Conv2d(into, out, 3, padding=1, bias=False)
            modules += [convolution, layer.BatchNorm2d(out), lif()]
            into = out
    head = layer.Linear(into * size**2, 10)
    return _multi_step(nn.Sequential(*modules, layer.Flatten(), head))


def _multi_step(model: nn.Module) -> nn.Module:
    functional.set_step_mode(model, "m")
    return model

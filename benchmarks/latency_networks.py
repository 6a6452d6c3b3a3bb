"""A perceptron and a VGG-like network, as SpikingJelly and snnTorch have them, a step a call."""

# pyright: basic

import itertools
from collections.abc import Callable
from typing import NamedTuple

import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

TAU, THRESHOLD = 2.0, 0.25
"""With torch's own initial weights, at this threshold every layer fires."""


class Net(NamedTuple):
    """A network of both libraries.

    Attributes:
        shape: Of one sample of one step.
        stream: How many steps in a row a contender runs in one turn.
        jelly: SpikingJelly's, with LIFNodes; a step or a sequence a call, by its step mode.
        torch: snnTorch's, with Leaky neurons; a step a call, membranes in and out.
    """

    shape: tuple[int, ...]
    stream: int
    jelly: Callable[[], nn.Sequential]
    torch: Callable[[], "Steps"]


class Steps(nn.Module):
    """A network of snnTorch, whose caller keeps the membranes."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def start(self) -> list[Tensor]:
        """The membranes before the first step."""
        leaky = (item for item in self.layers if isinstance(item, snntorch.Leaky))
        return [item.init_leaky() for item in leaky]

    def forward(self, x: Tensor, membranes: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Spikes of the last layer and the next membranes."""
        before, after = iter(membranes), []
        for item in self.layers:
            if isinstance(item, snntorch.Leaky):
                x, membrane = item(x, next(before))
                after.append(membrane)
            else:
                x = item(x)
        return x, after


WIDTHS = (784, 512, 512, 10)
PLAN = ((3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512))
POOLED = (0, 2, 4)
"""Behind these convolutions of the plan, 3 x 3 each, the map is halved."""


def _perceptron(linear: Callable[[int, int], nn.Module], fire: Callable[[], nn.Module]):  # noqa: ANN202
    for read, written in itertools.pairwise(WIDTHS):
        yield from (linear(read, written), fire())


def _vgg(layers: type, fire: Callable[[], nn.Module]):  # noqa: ANN202
    for i, (read, written) in enumerate(PLAN):
        yield from (layers.Conv2d(read, written, 3, padding=1), fire())
        if i in POOLED:
            yield layers.MaxPool2d(2)
    yield from (layers.Flatten(), layers.Linear(8192, 512), fire(), layers.Linear(512, 10))


def _lif() -> nn.Module:
    return neuron.LIFNode(TAU, v_threshold=THRESHOLD)


def _leaky() -> nn.Module:
    return snntorch.Leaky(beta=1 - 1 / TAU, threshold=THRESHOLD)


NETS = {
    "MLP 784-512-512-10": Net(
        (784,),
        64,
        lambda: nn.Sequential(*_perceptron(layer.Linear, _lif)),
        lambda: Steps(*_perceptron(nn.Linear, _leaky)),
    ),
    "VGG, 6.5 M": Net(
        (3, 32, 32),
        4,
        lambda: nn.Sequential(*_vgg(layer, _lif)),
        lambda: Steps(*_vgg(nn, _leaky)),
    ),
}


def sequential(net: nn.Module) -> nn.Module:
    """A network of SpikingJelly, ready for whole sequences."""
    functional.set_step_mode(net, "m")
    return net


def streaming(net: nn.Module, x: Tensor) -> Callable[[], object]:
    """SpikingJelly's way through a stream: the modules keep the membranes.

    Args:
        net: In step mode "s", perhaps compiled.
        x: One step, [1, ...].
    """

    def step() -> object:
        with torch.inference_mode():
            return net(x)

    return step


def carrying(net: nn.Module, start: list[Tensor], x: Tensor) -> Callable[[], object]:
    """SnnTorch's way: the caller keeps the membranes.

    Args:
        net: A `Steps`, perhaps compiled.
        start: The membranes before the first step.
        x: One step, [1, ...].
    """
    membranes = start

    def step() -> object:
        nonlocal membranes
        with torch.inference_mode():
            spikes, membranes = net(x, membranes)
        return spikes

    return step

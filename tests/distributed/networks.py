"""Small convolutional networks in float64, and the batch that processes share."""

# pyright: basic

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.capture.networks import fire

SAMPLES = 4


class Plain(nn.Module):
    """Plain torch: LIF neurons by hand, a leak a channel, layers in blocks, the loop in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.MaxPool2d(2))
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.AvgPool2d(2))
        self.head = nn.Linear(24, 5)
        self.gain = nn.Parameter(torch.linspace(2, 3, 6).view(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = x.new_zeros(x.shape[1], 6, 4, 4)
        second = x.new_zeros(x.shape[1], 6, 2, 2)
        outputs = []
        for x_t in x:
            first = 0.75 * first + self.gain * self.stem(x_t)
            spikes = fire(first - 0.5)
            first = first - 0.5 * spikes
            second = 0.5 * second + 2 * self.block(spikes)
            emitted = fire(second - 0.25)
            second = second - 0.25 * emitted
            outputs.append(self.head(emitted.flatten(1)))
        return torch.stack(outputs).mean(0)


def parametrized() -> nn.Module:
    """The same, one of its weights computed from two parameters."""
    network = Plain()
    weight_norm(network.block[0])
    return network


def jelly() -> nn.Module:
    """SpikingJelly's layers over [T, N, 2, 8, 8]; membranes survive a call."""
    network = nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1),
        neuron.LIFNode(tau=2.0, decay_input=False, v_threshold=0.5, v_reset=None),
        layer.AvgPool2d(2),
        layer.Conv2d(6, 6, 3, padding=1),
        neuron.IFNode(v_threshold=0.25, v_reset=None),
        layer.Flatten(),
        layer.Linear(96, 5),
    )
    functional.set_step_mode(network, "m")
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain, "parametrized": parametrized, "spikingjelly": jelly,
}  # fmt: skip


def network(name: str) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    return NETWORKS[name]().double()


def batch() -> tuple[Tensor, Tensor]:
    """A sequence [T, N, 2, 8, 8] and the targets [N, 5]."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, SAMPLES, 2, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.rand(SAMPLES, 5, generator=generator, dtype=torch.float64)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """The mean over samples, of the last step where a network returns all."""
    last = output[-1] if output.dim() > target.dim() else output
    return nn.functional.mse_loss(last, target)

"""Small networks that tests of the command line name as a person would."""

# pyright: basic

from typing import Any

import torch
from torch import Tensor, nn


class Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        distance: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(
        ctx: Any,
        *grad_outputs: Tensor,
    ) -> Tensor:
        (distance,) = ctx.saved_tensors
        gradient: Tensor = grad_outputs[0] / (1 + distance.abs()) ** 2
        return gradient


class Looped(nn.Module):
    """Plain torch: a LIF neuron written by hand, and the loop over [T, N, 6] in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.norm = nn.BatchNorm1d(12)
        self.second = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        membrane = torch.zeros(x.shape[1], 12)
        outputs = []
        for current in x:
            membrane = 0.75 * membrane + self.norm(self.first(current))
            spikes = Fire.apply(membrane - 0.5)  # type: ignore[no-untyped-call]
            membrane = membrane - spikes * 0.5
            outputs.append(self.second(spikes))
        return torch.stack(outputs)


class BatchFirst(Looped):
    """The same for [N, T, 6]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


def looped() -> nn.Module:
    torch.manual_seed(0)
    return Looped()


def batch_first() -> nn.Module:
    torch.manual_seed(0)
    return BatchFirst()


def multi_step() -> nn.Module:
    """SpikingJelly's layers over [T, N, 1, 8, 8]."""
    from spikingjelly.activation_based import functional, layer, neuron  # noqa: PLC0415

    torch.manual_seed(0)
    network = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(tau=2.0, v_threshold=0.25, detach_reset=True),
        layer.Flatten(),
        layer.Linear(256, 3),
        neuron.ParametricLIFNode(v_threshold=0.0625),
    )
    functional.set_step_mode(network, "m")
    return network


def one_step() -> nn.Module:
    """SpikingJelly's layers over one step [N, 6]; whoever calls it loops."""
    from spikingjelly.activation_based import neuron  # noqa: PLC0415

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), neuron.IFNode(v_threshold=0.25), nn.Linear(12, 3))


def chatty() -> nn.Module:
    """Prints while it is built, as many models do."""
    print("building the network")  # noqa: T201
    return looped()


def broken() -> nn.Module:
    raise RuntimeError("there is no pretrained file")


def three() -> int:
    return 3


instance = looped()
number = 3


class _Signs(nn.Module):
    """Weights as the mean size of their channel, with their signs."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.abs().mean(1, keepdim=True)
        return torch.where(weight < 0, -scale, scale)


def binary() -> nn.Module:
    """`looped` with binary weights, without the BatchNorm."""
    network = Looped()
    network.norm = nn.Identity()  # type: ignore[assignment]
    for layer in (network.first, network.second):
        nn.utils.parametrize.register_parametrization(layer, "weight", _Signs())
    return network

"""Third-party networks that the compiler is tested on, with activity and small inputs."""

# pyright: basic

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import norse.torch as norse
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import parametric_lif_net, spiking_resnet, spiking_vgg
from torch import Tensor, nn

from snncompile.runtime.schedule import ScheduleName
from tests.capture.networks import fire

LARGE = {"spiking_vgg11_bn", "spiking_resnet18"}
"""Networks that take seconds a run: what is tested on all others in every way, on these in one."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Case:
    """A network as its library ships it or as its users write it.

    Attributes:
        name: For test ids.
        make: Builds it.
        shape: Of its input, [T, N, ...].
        native: The schedule that the model itself follows.
        double: Builds the network that is run in float64, where it is another.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    native: ScheduleName
    double: Callable[[], nn.Module] | None = None

    def model(self, *, train: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network with the seed set, its normalisations so that neurons fire."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make = self.double if self.double and dtype == torch.float64 else self.make
            model = make().to(dtype).train(train)
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                nn.init.constant_(module.weight, 1.2)
                nn.init.constant_(module.bias, 0.7)
                module.momentum = None
        if any(isinstance(module, BATCH_NORMS) for module in model.modules()):
            model.train()(self.input(dtype=dtype))
            functional.reset_net(model)
        return model.train(train)

    def input(self, batch: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """A random input, with another batch size if asked."""
        torch.manual_seed(1)
        steps, size, *rest = self.shape
        return torch.rand(steps, batch or size, *rest, dtype=dtype)


def _jelly(make: Callable[..., nn.Module], node: Any, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = make(
            spiking_neuron=node, surrogate_function=surrogate.ATan(), detach_reset=True, **options
        )
        classifier = getattr(model, "classifier", None)
        if classifier is not None:  # 512 * 7 * 7 x 4096 would be most of the test's time
            classifier[0] = layer.Linear(25088, 64)
            classifier[3] = layer.Linear(64, 64)
            classifier[6] = layer.Linear(64, 10)
        functional.set_step_mode(model, "m")
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.data *= 3
        return model

    return build


class TwoLayers(nn.Module):
    """snnTorch's usual network: two Leaky layers, the loop in forward, everything recorded."""

    def __init__(self, spike_grad: Any = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 30)
        self.lif1 = snntorch.Leaky(beta=0.875, learn_beta=True, spike_grad=spike_grad)
        self.fc2 = nn.Linear(30, 5)
        self.lif2 = snntorch.Leaky(beta=0.75, spike_grad=spike_grad)
        with torch.no_grad():
            self.fc1.weight.mul_(4)
            self.fc2.weight.mul_(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class Convolutional(nn.Module):
    """snnTorch's convolutional tutorial network."""

    def __init__(self, spike_grad: Any = None) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 6, 5), snntorch.Leaky(0.5, spike_grad=spike_grad)
        self.conv2, self.lif2 = nn.Conv2d(6, 8, 3), snntorch.Leaky(0.5, spike_grad=spike_grad)
        self.fc, self.lif3 = nn.Linear(8 * 2 * 2, 5), snntorch.Leaky(0.5, spike_grad=spike_grad)
        with torch.no_grad():
            for layer in (self.conv1, self.conv2, self.fc):
                layer.weight.mul_(5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, mem3 = (lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3))
        spikes, membranes = [], []
        for step in range(x.size(0)):
            cur1 = nn.functional.max_pool2d(self.conv1(x[step]), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = nn.functional.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk3, mem3 = self.lif3(self.fc(spk2.view(x.size(1), -1)), mem3)
            spikes.append(spk3)
            membranes.append(mem3)
        return torch.stack(spikes), torch.stack(membranes)


class Sequential(nn.Module):
    """A Norse SequentialState with a convolution, run step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = norse.SequentialState(
            nn.Conv2d(1, 6, 3),
            norse.LIFBoxCell(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(6 * 4 * 4, 20),
            norse.LIFCell(),
            nn.Linear(20, 5),
            norse.LICell(),
        )
        with torch.no_grad():
            self.net[0].get_parameter("weight").mul_(60)
            self.net[4].get_parameter("weight").mul_(90)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        voltages = []
        for x_t in x:
            voltage, state = self.net(x_t, state)
            voltages.append(voltage)
        return torch.stack(voltages)


CASES = [
    Case(
        "MNISTNet",
        _jelly(parametric_lif_net.MNISTNet, neuron.ParametricLIFNode, channels=8),
        (4, 3, 1, 28, 28),
        "layers",
    ),
    Case(
        "CIFAR10DVSNet",
        _jelly(parametric_lif_net.CIFAR10DVSNet, neuron.LIFNode, channels=8),
        (3, 2, 2, 128, 128),
        "layers",
    ),
    Case(
        "spiking_vgg11_bn",
        _jelly(spiking_vgg.spiking_vgg11_bn, neuron.IFNode, num_classes=10),
        (2, 2, 3, 32, 32),
        "layers",
    ),
    Case(
        "spiking_resnet18",
        _jelly(spiking_resnet.spiking_resnet18, neuron.LIFNode, num_classes=10),
        (3, 2, 3, 32, 32),
        "layers",
    ),
    # snnTorch's own surrogates emit float32 spikes, which no float64 layer takes
    Case("snntorch-two-layers", TwoLayers, (8, 3, 20), "steps", lambda: TwoLayers(fire)),
    Case(
        "snntorch-convolutional",
        Convolutional,
        (6, 3, 1, 16, 16),
        "steps",
        lambda: Convolutional(fire),
    ),
    Case("norse-sequential", Sequential, (10, 3, 1, 10, 10), "steps"),
]

"""Every network of `saf_networks` and `saf_jelly` with its input, active or dyadic parameters."""
# pyright: basic

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from tests.passes import saf_jelly, saf_networks
from tests.passes.saf_networks import Scale

TIME, BATCH = 6, 3


@dataclass(frozen=True)
class Case:
    """A network and the shape of one sample of one step."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self, *, dyadic: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
        """With parameters that make every layer fire; dyadic ones keep float32 sums exact.

        BatchNorm is in eval mode, the rest in training mode.
        """
        torch.manual_seed(0)
        model = self.make().train()
        for module in model.modules():
            _exact_(module) if dyadic else _active_(module)
        return model.to(dtype)

    def input(
        self, *, dyadic: bool = False, dtype: torch.dtype = torch.float32, batch: int = BATCH
    ) -> Tensor:
        """[T, N, ...] between 0 and 1, multiples of 1/4 where dyadic."""
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(TIME, batch, *self.shape, generator=generator, dtype=torch.float64)
        return ((x * 4).round() / 4 if dyadic else x).to(dtype)


def _uniform_(value: Tensor | None, low: float, high: float) -> None:
    assert value is not None
    value.uniform_(low, high)


def _active_(module: Any) -> None:
    """Larger weights than at birth, so that neurons fire."""
    with torch.no_grad():
        if isinstance(module, (layer.WSConv2d, saf_networks.WSConv2d)):
            _uniform_(module.gain, 1.25, 1.75)
            _uniform_(module.bias, 0.0, 0.5)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.mul_(3.0)
            _uniform_(module.bias, 0.0, 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.eval()
            _uniform_(module.running_mean, -0.25, 0.25)
            _uniform_(module.running_var, 0.25, 1.0)
            _uniform_(module.weight, 0.5, 1.5)
            _uniform_(module.bias, 0.0, 0.5)


def _exact_(module: Any) -> None:
    """As `_active_`, multiples of 1/16 and divisions by powers of two only."""
    _active_(module)
    with torch.no_grad():
        if isinstance(module, (layer.WSConv2d, saf_networks.WSConv2d)):
            _standardised_(module)
        elif isinstance(module, nn.BatchNorm2d):
            _uniform_(module.running_var, 0.25, 0.25)
            module.eps = 0.0
        if isinstance(module, Scale):
            module.factor = 2.75
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if value.is_floating_point():
                value.copy_((value * 16).round() / 16)


def _standardised_(conv: Any) -> None:
    """Balanced weights of -1, 0 and 1, `eps` so that their deviation is a power of two.

    That power is far above the weights' own sum of squares, so that the order in which the
    variance is summed is rounded away.
    """
    fan_in = conv.weight[0].numel()
    signs = torch.zeros(fan_in, dtype=torch.float64)
    signs[: fan_in // 2], signs[fan_in // 2 : fan_in // 2 * 2] = 1.0, -1.0
    for channel in conv.weight:
        channel.copy_(signs[torch.randperm(fan_in)].reshape(channel.shape))
    squares = (signs.var() * fan_in).item()
    deviation = 2.0 ** math.ceil(math.log2(16 * squares) / 2)
    conv.eps = deviation**2 - squares
    conv.gain.fill_(deviation * 2.0 ** round(math.log2(1.2 / math.sqrt(fan_in))))


PLAIN = [
    Case("mlp", saf_networks.mlp, (16,)),
    Case("vgg", saf_networks.vgg, (3, 16, 16)),
    Case("residual", saf_networks.Residual, (2, 8, 8)),
    Case("recurrent", saf_networks.Recurrent, (12,)),
    Case("two decays", saf_networks.TwoDecays, (12,)),
    Case("shared synapse", saf_networks.SharedSynapse, (12,)),
    Case("delayed", saf_networks.Delayed, (12,)),
]

JELLY = [
    Case("jelly mlp", saf_jelly.mlp, (16,)),
    Case("jelly vgg", saf_jelly.vgg, (3, 16, 16)),
    Case("jelly residual", saf_jelly.Residual, (2, 8, 8)),
    Case("jelly recurrent", saf_jelly.Recurrent, (12,)),
]
"""The same networks as the first four."""

CASES = [*PLAIN, *JELLY]

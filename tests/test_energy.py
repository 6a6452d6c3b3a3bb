# pyright: basic
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snncompile import transform
from snncompile.energy import ACCUMULATE, MULTIPLY_ACCUMULATE, Operations, operations
from snncompile.nn import LIF
from snncompile.passes.event_driven import EventDriven


def taps(x: Tensor, layer: Any) -> int:
    """The synapses that nonzero inputs of a convolution reach, one by one."""
    count = 0
    height, width = x.shape[2:]
    per_group = layer.out_channels // layer.groups
    for n, c, i, j in torch.nonzero(x).tolist():
        del n, c
        for a in range(layer.kernel_size[0]):
            for b in range(layer.kernel_size[1]):
                top, left = i + layer.padding[0] - a, j + layer.padding[1] - b
                inside = 0 <= top <= height + 2 * layer.padding[0] - layer.kernel_size[0]
                inside &= 0 <= left <= width + 2 * layer.padding[1] - layer.kernel_size[1]
                on_grid = top % layer.stride[0] == 0 and left % layer.stride[1] == 0
                count += per_group * (inside and on_grid)
    return count


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}, {"padding": 0}])
def test_every_spike_counts_once_for_every_synapse_it_reaches(options: dict[str, int]) -> None:
    settings: dict[str, Any] = {"padding": 1, **options}
    layer = nn.Conv2d(2, 4, 3, **settings)
    x = torch.randint(0, 2, (2, 2, 5, 6)).float()

    counted = operations(layer, x)

    assert counted.accumulates == taps(x, layer)
    assert counted.multiply_accumulates == 0
    assert counted.dense == taps(torch.ones_like(x), layer)


def test_real_numbers_multiply_at_every_synapse() -> None:
    layer, x = nn.Conv2d(2, 4, 3, padding=1), torch.rand(1, 2, 5, 5)
    x[0, 0] = 0

    counted = operations(layer, x)

    assert counted.accumulates == 0
    assert counted.multiply_accumulates == counted.dense == taps(torch.ones_like(x), layer)


def test_a_count_of_spikes_is_that_many_accumulates() -> None:
    counted = operations(nn.Linear(3, 5), torch.tensor([[0.0, 1.0, 2.0]]))

    assert counted.accumulates == 15


def test_a_transposed_convolution_scatters_every_spike() -> None:
    layer, x = nn.ConvTranspose2d(2, 6, 3, groups=2, stride=3), torch.ones(1, 2, 4, 4)

    assert operations(layer, x).accumulates == 2 * 16 * 3 * 9


def test_the_products_of_an_lstm_are_counted() -> None:
    x = torch.rand(1, 5, 4)

    counted = operations(nn.LSTM(4, 3, batch_first=True), x)

    assert counted.dense == 5 * (4 * 12 + 3 * 12)


def test_energy_is_that_of_the_operations() -> None:
    counted = Operations(accumulates=10, multiply_accumulates=2, dense=20)

    assert counted.picojoules == pytest.approx(10 * ACCUMULATE + 2 * MULTIPLY_ACCUMULATE)
    assert counted.dense_picojoules == pytest.approx(20 * MULTIPLY_ACCUMULATE)


def test_nothing_is_left_changed() -> None:
    layer, x = nn.Linear(3, 5), torch.rand(2, 3)
    before = torch.backends.mkldnn.enabled

    operations(layer, x)

    assert torch.backends.mkldnn.enabled == before
    assert layer(x).requires_grad


def test_quarters_count_as_many_accumulates_as_there_are() -> None:
    x = torch.tensor([[0.0, 0.25, 3.75]])

    counted = operations(nn.Linear(3, 4), x)

    assert (counted.accumulates, counted.multiply_accumulates) == (16 * 4, 0)


@pytest.mark.parametrize("below", [0.0, 1.0])
def test_synapses_by_events_count_as_the_dense_ones_do(below: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 70, 3, stride=2, padding=1), LIF(), nn.MaxPool2d(2))
    network.extend((nn.Conv2d(70, 8, 1), LIF(), nn.Flatten(), nn.Linear(32, 4)))
    x = (torch.rand(4, 2, 3, 8, 8) < 0.3).float() * 8
    plain, added = (
        transform(Stepped(network), passes, schedule="layers", example_inputs=x)
        for passes in ([], [EventDriven(below=below)])
    )

    assert operations(added, x) == operations(plain, x)


class Stepped(nn.Module):
    """A network once a step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.network(value) for value in x.unbind(0)])

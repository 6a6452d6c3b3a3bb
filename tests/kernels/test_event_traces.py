"""Products with leaky counts of spikes, by their events, against the dense products."""

# pyright: basic

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from snncompile.ir.events import Events
from snncompile.kernels.bits import pack_increments, unpack
from snncompile.kernels.event_traces import event_traces


def counted(spikes: Tensor, decay: float, before: Tensor | None = None) -> Tensor:
    """Leaky counts [T, N, M] of spikes, summed as the neuron sums them."""
    rows: list[Tensor] = []
    count = torch.zeros_like(spikes[0]) if before is None else before
    for step in spikes:
        count = decay * count + step
        rows.append(count)
    return torch.stack(rows)


def spikes_of(steps: int, batch: int, inputs: int, dtype: torch.dtype, rate: float = 0.2) -> Tensor:
    return (torch.rand(steps, batch, inputs) < rate).to(dtype)


def dyadic(*shape: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(*shape, dtype=dtype) * 8).round() / 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5, 1 - 1 / 3, 0.0, 0.99])
@pytest.mark.parametrize("inputs", [1, 63, 64, 130])
def test_spikes_are_found_again_whatever_the_rounding(
    inputs: int, decay: float, dtype: torch.dtype
) -> None:
    spikes = spikes_of(300, 2, inputs, dtype)
    traces = counted(spikes, decay, torch.randn(2, inputs, dtype=dtype)).flatten(0, 1)

    packed = pack_increments(traces, 2, decay)

    assert packed is not None
    assert torch.equal(unpack(packed, inputs, dtype), spikes[1:].flatten(0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("size", [(2, 1, 1, 1), (9, 3, 70, 5), (8, 5, 128, 67)], ids=str)
def test_dyadic_products_are_the_same_bits(
    size: tuple[int, int, int, int], decay: float, biased: bool, dtype: torch.dtype
) -> None:
    steps, batch, inputs, outputs = size
    traces = counted(spikes_of(steps, batch, inputs, dtype), decay).flatten(0, 1)
    weight = dyadic(outputs, inputs, dtype=dtype)
    bias = dyadic(outputs, dtype=dtype) if biased else None

    out, added = event_traces(traces, weight, bias, decay, steps, 1.0, 0)

    assert added == 1
    assert torch.equal(out, linear(traces, weight, bias))


def test_real_numbers_agree_with_float64_over_long_sequences() -> None:
    spikes = spikes_of(500, 4, 200, torch.float32, 0.1)
    traces = counted(spikes, 0.9).flatten(0, 1)
    weight, bias = torch.randn(50, 200), torch.randn(50)

    out, _ = event_traces(traces, weight, bias, 0.9, 500, 1.0, 0)

    exact = linear(counted(spikes.double(), 0.9).flatten(0, 1), weight.double(), bias.double())
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-4)


def test_gradients_are_those_of_a_linear() -> None:
    traces = counted(spikes_of(6, 3, 40, torch.float64), 0.5).flatten(0, 1).requires_grad_()
    weight = torch.randn(7, 40, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(18, 7, dtype=torch.float64)

    out, _ = event_traces(traces, weight, bias, 0.5, 6, 1.0, 0)
    found = torch.autograd.grad(out, (traces, weight, bias), gradient)

    dense = linear(traces, weight, bias)
    expected = torch.autograd.grad(dense, (traces, weight, bias), gradient)
    torch.testing.assert_close(out, dense)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("below", [0.05, 1.0])
def test_it_reports_the_rate_and_the_way(below: float) -> None:
    spikes = spikes_of(20, 5, 64, torch.float32)
    seen, traces = Events(decay=0.5), counted(spikes, 0.5).flatten(0, 1)

    _, added = event_traces(traces, torch.randn(8, 64), None, 0.5, 20, below, seen.number)

    assert seen.rate == pytest.approx(float(spikes[1:].mean()))
    assert seen.by_events == bool(added) == (below == 1.0)


def test_the_operator_keeps_torchs_rules() -> None:
    traces = counted(spikes_of(6, 3, 40, torch.float32), 0.5).flatten(0, 1).requires_grad_()
    given = (traces, torch.randn(7, 40, requires_grad=True), torch.randn(7), 0.5, 6, 1.0, 0)

    torch.library.opcheck(torch.ops.snncompile.event_traces.default, given)


@pytest.mark.parametrize("other", [0.5, 2.0, -1.0, 254 / 255, 1e-3, float("nan"), float("inf")])
def test_counts_of_other_numbers_are_multiplied(other: float) -> None:
    values = spikes_of(7, 3, 70, torch.float32)
    values[4, 1, 65] = other
    traces = counted(values, 0.5).flatten(0, 1)
    weight = torch.randn(5, 70)

    out, added = event_traces(traces, weight, None, 0.5, 7, 1.0, 0)

    assert pack_increments(traces, 3, 0.5) is None
    assert added == 0
    torch.testing.assert_close(out, linear(traces, weight), rtol=0, atol=0, equal_nan=True)

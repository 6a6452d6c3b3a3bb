# pyright: basic
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import snncompile
from snncompile import nn as snn
from snncompile.errors import InputError
from snncompile.ir.windows import Projection
from snncompile.nn.windowed import Draws
from tests.programs import dyadic_
from tests.reference import one_step as reference

spans = pytest.mark.parametrize("span", ["half", "three-quarters"])
ROUNDING = 1e-12
"""Absolute, in float64: the LSTM adds in another order, and averages of overlaps are products."""


def neuron(current: np.ndarray, membrane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paper's: no reset, strictly above its threshold."""
    charged = 0.4 * membrane + current
    return (charged > 0.5).astype(np.float64), charged


def bits(draw: Tensor, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The drawn numbers of one window."""
    return draw.reshape(4, *shape)[index].numpy()


@spans
@pytest.mark.parametrize("projection", ["sine", "mean"])
def test_the_convolutional_module_is_that_of_the_equations(
    span: Any, projection: Projection
) -> None:
    torch.manual_seed(0)
    module = snn.WindowedConvolution(2, span=span, projection=projection).double()
    dyadic_(module, 3.0)
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    draw = torch.rand(2, module.numbers(8, 8), dtype=torch.float64)
    synapses = [
        (s.weight.detach().numpy(), s.bias.detach().numpy())  # type: ignore[union-attr]
        for s in (module.first, module.second)
    ]

    found = module(x, Draws(draw)).detach()

    assert 0 < found.mean() < 1
    for sample, numbers, spikes in zip(x, draw, found, strict=True):
        outputs = []
        c1 = c2 = np.zeros(())
        for k, piece in enumerate(reference.cut(sample.numpy(), span)):
            encoded = (piece > bits(numbers, k, piece.shape)).astype(np.float64)
            s1, c1 = neuron(reference.convolve(encoded, *synapses[0]), c1)
            s2, c2 = neuron(reference.convolve(s1, *synapses[1]), c2)
            c2 = reference.combined(c1, c2, projection)
            outputs.append(s2)
        np.testing.assert_array_equal(spikes.numpy(), reference.stitch(outputs, 8, 8))


def test_the_recurrent_module_hands_membranes_as_in_the_equations() -> None:
    torch.manual_seed(0)
    module = snn.WindowedRecurrence(2).double()
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    below = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    draw = torch.rand(1, module.numbers(4, 4), dtype=torch.float64)

    spikes, membranes = (value[0].detach().numpy() for value in module(x, below, Draws(draw)))

    m = reference.cut(below[0].numpy(), "half")
    mine: list[np.ndarray] = []
    emitted: list[np.ndarray] = []
    for k, piece in enumerate(reference.cut(x[0].numpy(), "half")):
        encoded = torch.from_numpy(piece > bits(draw[0], k, piece.shape)).double()
        current = module.lstm(encoded.reshape(1, 2, -1).mT)[0].mT.reshape(2, 2, 2)
        first = mine[0] if k == 1 else m[k]
        given = reference.combined(first, m[1] if k < 2 else mine[k - 1], "sine")
        fired, charged = neuron(current.detach().numpy(), given)
        mine.append(charged)
        emitted.append(fired)
    assert 0 < spikes.mean() < 1
    np.testing.assert_array_equal(spikes, reference.stitch(emitted, 4, 4))
    np.testing.assert_allclose(membranes, reference.stitch(mine, 4, 4), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("version", ["convolutional", "recurrent"])
def test_the_network_is_decided_by_its_draw(version: Any) -> None:
    torch.manual_seed(0)
    net = snn.OneStepNet(1, 5, depths=(2, 1), widths=(4, 8), version=version)
    x, draw = torch.rand(3, 1, 16, 16), torch.rand(3, net.numbers(16, 16))

    scores = net(x, draw)

    assert scores.shape == (3, 5)
    torch.testing.assert_close(net(x, draw.clone()), scores, rtol=0, atol=0)
    assert not torch.equal(net(x, torch.rand_like(draw)), scores)
    torch.manual_seed(7)
    drawn = net(x)
    torch.manual_seed(7)
    torch.testing.assert_close(net(x), drawn, rtol=0, atol=0)


@pytest.mark.parametrize("version", ["convolutional", "recurrent"])
def test_every_parameter_of_the_network_gets_a_gradient(version: Any) -> None:
    torch.manual_seed(0)
    net = snn.OneStepNet(1, 5, depths=(2, 1), widths=(8, 16), version=version)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)

    torch.autograd.backward(net(torch.rand(8, 1, 16, 16)).square().sum())

    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_windows_alternate_within_a_stage_and_the_last_stage_takes_halves() -> None:
    net = snn.OneStepNet(1, 5, depths=(3, 2), widths=(4, 8))

    found = [m.span for m in net.modules() if isinstance(m, snn.WindowedConvolution)]

    assert found == ["half", "three-quarters", "half", "half", "half"]


def test_the_network_is_captured_and_exported_with_its_draw(tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = snn.OneStepNet(1, 5, depths=(2, 1), widths=(4, 8)).eval()
    x, draw = torch.rand(2, 1, 16, 16), torch.rand(2, net.numbers(16, 16))
    captured = snncompile.transform(net, [], example_inputs=(x, draw))

    report = snncompile.export(captured, tmp_path / "net.onnx", example_inputs=(x, draw))

    torch.testing.assert_close(captured(x, draw), net(x, draw), rtol=0, atol=0)
    assert report.agreement is not None
    assert report.agreement.moved == 0


def test_a_map_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(InputError, match=r"map of 6x6; windows of three-quarters want sides that"):
        snn.WindowedConvolution(2, span="three-quarters")(torch.rand(1, 2, 6, 6))


def test_a_draw_that_is_too_short_is_refused() -> None:
    net = snn.OneStepNet(1, 5, depths=(1,), widths=(4,))

    with pytest.raises(InputError, match=r"holds 3 numbers a sample, which is too few"):
        net(torch.rand(1, 1, 8, 8), torch.rand(1, 3))

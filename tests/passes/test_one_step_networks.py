# pyright: basic
"""The one-step pass on whole networks: captured, trained, run in every schedule, exported."""

import copy
import pickle
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snncompile
from snncompile import nn as snn
from snncompile.errors import InputError
from snncompile.passes.one_step import OneStep
from snncompile.runtime.schedule import Recording, ScheduleName
from tests.programs import dyadic_

CHANNELS = 4


class Block(nn.Module):
    """Two spiking convolutions of SpikingJelly and a shortcut around them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*spiking(CHANNELS), *spiking(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.body(x) + x
        return added


def spiking(channels: int) -> tuple[nn.Module, ...]:
    norm = layer.BatchNorm2d(CHANNELS)
    nn.init.constant_(norm.weight, 2.0)
    nn.init.constant_(norm.bias, 1.0)
    node = neuron.LIFNode(surrogate_function=surrogate.ATan())
    return layer.Conv2d(channels, CHANNELS, 3, padding=1, bias=False), norm, node


def residual() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        *spiking(1), Block(), layer.AvgPool2d(2), Block(), layer.Flatten(), layer.Linear(64, 5)
    )
    functional.set_step_mode(net, "m")
    return net


class Recurrent(nn.Module):
    """snnTorch: a layer that convolves its own spikes, and a flat one with recorded membranes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.first = snntorch.RLeaky(beta=0.5, conv2d_channels=CHANNELS, kernel_size=3)
        self.head, self.last = nn.Linear(CHANNELS * 64, 5), snntorch.Leaky(beta=0.5)
        with torch.no_grad():
            self.conv.weight.mul_(5)
            self.head.weight.mul_(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes, membrane = self.first.init_rleaky()
        last = self.last.init_leaky()
        outputs, membranes = [], []
        for x_t in x:
            spikes, membrane = self.first(self.conv(x_t), spikes, membrane)
            emitted, last = self.last(self.head(spikes.flatten(1)), last)
            outputs.append(emitted)
            membranes.append(membrane)
        return torch.stack(outputs), torch.stack(membranes)


class Shared(nn.Module):
    """Plain torch: one convolution is called by two layers; it repeats its image by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(2, 2, 3, padding=1), nn.AvgPool2d(2)
        self.first, self.second, self.readout = snn.LIF(), snn.LIF(), snn.LeakyIntegrator()

    def forward(self, image: Tensor) -> Tensor:
        snn.reset(self)
        outputs = []
        for x_t in image.unsqueeze(0).repeat(4, 1, 1, 1, 1):
            hidden = self.pool(self.first(self.conv(x_t)))
            outputs.append(self.readout(self.second(self.conv(hidden)).flatten(1)))
        return torch.stack(outputs).mean(0)


def images(steps: int, batch: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(1, batch, 1, 8, 8).repeat(steps, 1, 1, 1, 1)


def first(result: Any) -> Tensor:
    value: Tensor = result[0] if isinstance(result, tuple) else result
    return value


def active(network: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether every neuron fires sometimes somewhere, and not always."""
    recording = Recording()
    network.record(recording, *args, **kwargs)
    rates: dict[str, list[Tensor]] = {}
    for node in network.program.neurons():
        rates.setdefault(str(node.meta.get("module")), []).append(recording.outputs[node.name][0])
    means = [torch.cat([piece.flatten() for piece in pieces]).mean() for pieces in rates.values()]
    return all(0 < mean < 1 for mean in means)


@pytest.mark.parametrize(
    ("make", "handover", "train"),
    [(residual, "windows", True), (residual, "layers", False), (Recurrent, "windows", False)],
)
def test_every_schedule_computes_the_same(make: Any, handover: Any, train: bool) -> None:
    x = images(4)
    results: list[Tensor] = []
    gradients: list[tuple[Tensor, ...]] = []
    schedules: tuple[ScheduleName, ...] = ("steps", "layers")
    for schedule in schedules:
        torch.manual_seed(0)
        net = snncompile.transform(
            make().train(train), OneStep(handover=handover), schedule=schedule
        )
        result = first(net(x))
        loss = (result * torch.arange(1.0, result.numel() + 1).reshape(result.shape)).sum()
        gradients.append(torch.autograd.grad(loss, tuple(net.parameters()), allow_unused=True))
        results.append(result)

    assert results[0].shape == (1, 3, 5)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("make", [residual, Recurrent])
def test_every_parameter_gets_a_gradient(make: Any) -> None:
    torch.manual_seed(0)
    net = snncompile.transform(make(), OneStep())

    torch.autograd.backward(first(net(images(4))).square().sum())

    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_other_batches_and_dtypes_run_as_well() -> None:
    model = dyadic_(residual().eval(), 2.0)
    net = snncompile.transform(model, OneStep(), example_inputs=images(4))
    x = (images(4, batch=7) * 16).round() / 16

    single = net(x)
    alone = torch.cat([net(x[:, i : i + 1]) for i in range(7)], 1)
    twice = net.double()(x.double())

    assert active(net, x.double())
    torch.testing.assert_close(single, alone)
    torch.testing.assert_close(single.double(), twice)


def test_a_folded_batchnorm_goes_over_the_windows_too() -> None:
    model = residual().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.0
    x = (images(4) * 16).round() / 16
    plain = snncompile.transform(dyadic_(model, 2.0), OneStep())
    folded = snncompile.transform(model, ["fuse-batchnorm", OneStep()])

    assert active(folded, x)
    torch.testing.assert_close(folded(x), plain(x), rtol=0, atol=0)


def test_a_copy_and_a_pickle_compute_the_same() -> None:
    net, x = snncompile.transform(residual().eval(), OneStep()), images(4)
    expected = net(x)

    for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(same(x), expected, rtol=0, atol=0)


def test_only_the_first_step_of_a_longer_sequence_is_read() -> None:
    net = snncompile.transform(residual().eval(), OneStep())
    x = torch.rand(4, 2, 1, 8, 8)

    torch.testing.assert_close(net(x), net(x[:1]), rtol=0, atol=0)
    assert "# one step over windows: of a longer sequence the first step is read" in (
        snncompile.text(net.program)
    )


def test_a_batchnorm_that_trains_normalises_every_window_by_itself() -> None:
    net = nn.Sequential(layer.BatchNorm2d(1, affine=False, momentum=1.0), neuron.IFNode())
    functional.set_step_mode(net, "m")
    one = snncompile.transform(net.train(), OneStep())
    x = torch.rand(1, 5, 1, 8, 8)

    spikes = one(x)[0]

    last = x[0, :, :, 4:, 4:]
    torch.testing.assert_close(net[0].running_mean, last.mean().reshape(1))
    membrane = torch.zeros(5, 1, 4, 4)
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            piece = x[0, :, :, rows, columns]
            membrane = membrane + nn.functional.batch_norm(piece, None, None, training=True)
            fired = (membrane >= 1).float()
            torch.testing.assert_close(spikes[:, :, rows, columns], fired, rtol=0, atol=0)
            membrane = membrane * (1 - fired)


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    net = snncompile.transform(residual(), OneStep())
    x, labels = torch.rand(1, 20, 1, 8, 8), torch.arange(20) % 5
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(net(x)[0], labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("make", "form"), [(residual, "sequence"), (Recurrent, "step"), (Recurrent, "sequence")]
)
def test_onnxruntime_fires_the_same_spikes(
    make: Any, form: Literal["step", "sequence"], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = snncompile.transform(make().eval(), OneStep())
    x = images(4)

    report = snncompile.export(net, tmp_path / "net.onnx", form=form, example_inputs=x)

    assert active(net, x)
    assert report.agreement is not None
    assert report.agreement.moved == 0
    assert report.agreement.steps == 1
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (given,) = session.get_inputs()
    fed = x[0] if form == "step" else x[:1]
    found = torch.from_numpy(session.run(None, {given.name: fed.numpy()})[0])
    expected = first(net(x)).detach()
    torch.testing.assert_close(found, expected[0] if form == "step" else expected)


def with_draw() -> tuple[Any, Tensor, int]:
    """A network with a prologue, its input, and how many numbers it draws."""
    torch.manual_seed(0)
    net = snncompile.transform(dyadic_(Shared(), 8.0), OneStep(encoding="bernoulli"))
    x = torch.rand(3, 2, 16, 16)
    return net, x, net.program_for(x).placeholder("draw").meta["val"].shape[1]


def test_the_draw_decides_alone() -> None:
    net, x, count = with_draw()
    draw = torch.rand(3, count, generator=torch.Generator().manual_seed(3))

    once, again, other = (net(x, draw=d) for d in (draw, draw.clone(), torch.rand_like(draw)))

    assert count == 2 * 8 * 8
    assert active(net, x, draw=draw)
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert not torch.equal(once, other)


def test_a_call_without_the_draw_says_what_is_missing() -> None:
    net, x, _ = with_draw()

    with pytest.raises(InputError, match=r"reads .*, draw, which are other arguments"):
        net(x)


def test_an_export_without_the_draw_among_its_examples_says_so(tmp_path: Path) -> None:
    net = snncompile.transform(residual().eval(), OneStep(encoding="bernoulli"))

    with pytest.raises(InputError, match=r"reads .*, draw, but 1 example inputs were given; leave"):
        snncompile.export(net, tmp_path / "net.onnx", example_inputs=images(1))


def test_the_draw_is_an_input_of_the_file(tmp_path: Path) -> None:
    net, x, count = with_draw()
    draw = torch.rand(3, count)
    expected = net.eval()(x, draw=draw).detach()

    report = snncompile.export(net, tmp_path / "net.onnx")

    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [given.name for given in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (x.numpy(), draw.numpy()), strict=True)))
    assert names[1] == "draw"
    assert report.agreement is not None
    assert report.agreement.moved == 0
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_parallel_neuron_is_refused_by_name() -> None:
    net = nn.Sequential(layer.Conv2d(1, 2, 3, padding=1, step_mode="m"), neuron.PSN(4))

    with pytest.raises(snncompile.SnncompileError, match=r"one-step: .*reads the whole sequence"):
        snncompile.transform(net, OneStep(), example_inputs=images(4))

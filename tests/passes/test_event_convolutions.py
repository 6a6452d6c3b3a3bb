"""Networks of convolutions by events: the outputs, spikes and gradients of the dense ones."""

# pyright: basic

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snncompile
import snncompile.nn as own
from snncompile.ir.events import Events
from snncompile.module import Transformed
from snncompile.passes.channels_last import ChannelsLast
from snncompile.passes.event_driven import EventDriven, synapses
from snncompile.passes.recompute import Recompute
from snncompile.rewrite import Pass
from snncompile.runtime.events import by_events, strides
from tests.passes.networks import Block, Network
from tests.programs import Step, dyadic_

STEPS, BATCH = 4, 3

ROUNDING = 1e-10
"""Of gradients in float64, whose sums over a batch with BatchNorm round."""


class Spiking(Network):
    """Convolutions right after neurons and after pooling by a maximum, in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 20, 3, padding=1), own.LIF(),
            nn.Conv2d(20, 70, 3, padding="same", bias=False), own.LIF(), nn.MaxPool2d(2),
            nn.Conv2d(70, 16, 5, stride=2, padding=2), own.LIF(),
            nn.Flatten(), nn.Linear(16 * 3 * 3, 5),
        )  # fmt: skip
        dyadic_(self, 3.0)


def jelly() -> nn.Module:
    """SpikingJelly's layers over whole sequences, as in its CSNN, but with large kernels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 12, 3, padding=1, bias=False), layer.BatchNorm2d(12), neuron.IFNode(),
        layer.MaxPool2d(2, 2),
        layer.Conv2d(12, 70, 3, padding=1, bias=False), layer.BatchNorm2d(70), neuron.LIFNode(),
        layer.Conv2d(70, 9, 5, padding=2, dilation=1, bias=True), neuron.LIFNode(),
        layer.MaxPool2d(2, 2), layer.Flatten(), layer.Linear(81, 6), neuron.IFNode(),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.75)
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.uniform_(module.weight, -0.5, 0.75)
    return net


class Residual(Network):
    """Pre-activation blocks: their convolutions read spikes, what is added up are membranes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 24, 3, padding=1), Block(24, 24, 1), Block(24, 48, 2), own.LIF(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5),
        )  # fmt: skip


def frames(dtype: torch.dtype = torch.float32, rate: float = 0.3) -> Tensor:
    return (torch.rand(STEPS, BATCH, 2, 12, 12) < rate).to(dtype)


def trained(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs from rest, and the gradients of input and parameters."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    out: Tensor = module(x)
    assert out.count_nonzero() > 0
    loss = (out.flatten() * torch.arange(out.numel()).remainder(5) / 4).sum()
    return [out, *torch.autograd.grad(loss, [x, *module.parameters()])]


def transformed(model: nn.Module, *passes: Pass, schedule: Any = "layers") -> Transformed:
    return snncompile.transform(model, list(passes), schedule=schedule, time_steps=STEPS)


@pytest.mark.parametrize("below", [None, 1.0, 0.0])
@pytest.mark.parametrize("schedule", ["layers", 2, "steps"])
def test_dyadic_weights_keep_every_bit_forward(below: float | None, schedule: Any) -> None:
    model, x = Spiking(), frames()
    plain = transformed(model, schedule=schedule)
    added = transformed(model, EventDriven(below=below), schedule=schedule)

    expected, found = trained(plain, x), trained(added, x)

    assert set(synapses(added.program)) == {"layers.0", "layers.2", "layers.5", "layers.8"}
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [jelly, Residual])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("passes", [(), (ChannelsLast(),)], ids=["contiguous", "channels-last"])
def test_whole_networks_in_float64(
    make: Callable[[], nn.Module], training: bool, passes: tuple[Pass, ...]
) -> None:
    model, x = make().double().train(training), frames(torch.float64)
    dense = transformed(model)
    added = transformed(model, EventDriven(below=1.0), *passes)

    expected = trained(dense, x)
    dense.reset()
    found = trained(added, x)

    known = synapses(added.program)
    assert len(known) >= 4
    assert all(seen.by_events or isinstance(added.get_submodule(name), nn.Linear)
               for name, seen in known.items())  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("make", [jelly, Residual])
def test_verify_says_that_nothing_moved(make: Callable[[], nn.Module]) -> None:
    model, x = make().double().eval(), frames(torch.float64)

    report = snncompile.verify(model, transformed(model, EventDriven(below=1.0)), x)

    assert report.ok
    assert all(compared.moved == 0 for compared in report.neurons)


@pytest.mark.parametrize("passes", [(), (ChannelsLast(),)], ids=["contiguous", "channels-last"])
def test_what_runs_again_goes_the_same_way(passes: tuple[Pass, ...]) -> None:
    model, x = Spiking(), frames()
    plain = transformed(model, EventDriven(below=1.0), *passes)
    again = transformed(model, EventDriven(below=1.0), *passes, Recompute())

    torch.testing.assert_close(trained(again, x), trained(plain, x), rtol=0, atol=0)


def test_what_runs_again_after_a_measurement_agrees() -> None:
    torch.manual_seed(0)
    model = Network()
    model.layers = nn.Sequential(
        own.LIF(), nn.Conv2d(64, 64, 3, padding=1), own.LIF(), nn.Conv2d(64, 64, 3, padding=1)
    )
    x = (torch.rand(STEPS, 8, 64, 12, 12) < 0.05).float() * 2
    passes = (EventDriven(), Recompute())
    again, plain = transformed(model, *passes), transformed(model)

    expected = trained(plain, x)
    for _ in range(3):
        found = trained(again, x)

    assert synapses(again.program)["layers.1"].rate == pytest.approx(0.05, abs=0.02)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("passes", [(), (ChannelsLast(),)], ids=["contiguous", "channels-last"])
def test_torch_compile_runs_it_whole(passes: tuple[Pass, ...]) -> None:
    module, x = transformed(Spiking().eval(), EventDriven(below=1.0), *passes), frames()
    expected = module(x)
    module.reset()

    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")

    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("why", ["hooks", "autocast", "bfloat16", "no kernels", "torch.func"])
def test_where_it_multiplies_as_before(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Spiking().eval(), frames()
    module = transformed(model, EventDriven(below=1.0))
    module(x[:, :1])
    seen = synapses(module.program)["layers.2"]
    assert seen.by_events
    seen.by_events = False
    module.reset()
    match why:
        case "hooks":
            model.get_submodule("layers.2").register_forward_hook(lambda *given: None)
            module(x)
        case "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                module(x)
        case "bfloat16":
            module.bfloat16()(x.bfloat16())
        case "no kernels":
            monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")
            module(x)
        case _:
            torch.func.grad(lambda value: module(value).sum())(x)
    assert not seen.by_events


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Conv1d(4, 4, 3),
        nn.Conv3d(4, 4, 3),
    ],
    ids=str,
)
def test_other_convolutions_are_not_marked(convolution: nn.Module) -> None:
    step = Step(nn.ModuleDict({"conv": convolution}))
    dimensions = 1 if isinstance(convolution, nn.Conv1d) else 2
    dimensions += isinstance(convolution, nn.Conv3d)
    program = step.program(step.module("conv", step.input("x", 4, *(5,) * dimensions)))

    assert EventDriven()(program) == 0


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("padding", "taps", "gap", "expected"),
    [
        ("valid", 3, 1, (0, 0)),
        ("same", 3, 1, (1, 1)),
        ("same", (5, 3), (1, 2), (2, 2)),
        ("same", 2, 1, None),
        ((2, 0), 3, 1, (2, 0)),
    ],
)
def test_padding_in_words_and_numbers(padding: Any, taps: Any, gap: Any, expected: Any) -> None:
    conv = nn.Conv2d(3, 8, taps, padding=padding, dilation=gap)
    spikes = (torch.rand(2, 3, 9, 8) < 0.2).float()
    dyadic_(conv)
    found, seen = strides(conv), Events(1.0)

    assert (found if found is None else found[2:4]) == expected
    assert torch.equal(by_events(conv, spikes, seen), conv(spikes))
    assert seen.by_events is (expected is not None)


def test_settings_that_change_after_the_pass_are_met() -> None:
    conv, seen = nn.Conv2d(4, 4, 3), Events(1.0)
    spikes = (torch.rand(2, 4, 9, 8) < 0.2).float()
    conv.padding_mode, conv.padding = "reflect", (1, 1)
    conv._reversed_padding_repeated_twice = [1, 1, 1, 1]

    assert torch.equal(by_events(conv, spikes, seen), conv(spikes))
    assert not seen.by_events


def test_a_small_convolution_is_never_looked_at() -> None:
    seen = Events()

    by_events(nn.Conv2d(16, 32, 3), torch.zeros(2, 16, 8, 8), seen)

    assert seen.rate is None

"""What models do besides computing: memory they keep, resets, hooks; a capture leaves no trace."""

# pyright: basic

import copy
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from snncompile.api import capture, transform
from snncompile.errors import CaptureError
from snncompile.module import Transformed
from tests.capture.networks import HandWritten, fire


def _spiking() -> nn.Sequential:
    linear = layer.Linear(6, 8)
    linear.weight.data *= 4
    model = nn.Sequential(linear, neuron.LIFNode(surrogate_function=surrogate.ATan()))
    functional.set_step_mode(model, "m")
    return model


def test_an_uncovered_neuron_is_named_with_those_that_are() -> None:
    model = nn.Sequential(nn.Linear(6, 8), neuron.IzhikevichNode())

    with pytest.raises(CaptureError) as caught:
        capture(model, torch.rand(3, 6))

    assert "module '1'" in str(caught.value)
    assert "IzhikevichNode" in str(caught.value)
    assert "LIFNode" in str(caught.value)


def test_a_reset_at_the_end_of_forward_is_part_of_the_program() -> None:
    class Resets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _spiking()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            functional.reset_net(self.net)
            return out

    torch.manual_seed(0)
    model = Resets()
    fast = transform(model, [], schedule="layers")
    x = 2 * torch.rand(5, 3, 6)

    first, second = fast(x), fast(x)

    assert torch.equal(first, model(x))
    assert torch.equal(first, second)
    assert 0.02 < float(first.detach().mean()) < 0.98


def test_a_captured_copy_does_not_touch_the_models_state() -> None:
    model = _spiking()
    memories = copy.copy(model[1]._memories)

    capture(model, torch.rand(5, 3, 6))

    assert model[1]._memories == memories
    assert model[1].v == 0.0


def test_hooks_that_the_program_does_not_run_are_noted() -> None:
    model = _spiking()
    model[1].register_forward_hook(lambda *_: None)

    notes = capture(model, torch.rand(5, 3, 6)).notes

    assert any("forward hooks of '1'" in note for note in notes)


class _Remembers(nn.Module):
    """One step with its membrane in a plain attribute, as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.membrane: Any = 0.0
        self.spikes: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.membrane = 0.5 * self.membrane + self.layer(x)
        self.spikes = fire(self.membrane - 1.0)
        return self.spikes


def test_memory_in_a_plain_attribute_is_refused_by_name() -> None:
    model = _Remembers()

    with pytest.raises(CaptureError, match="keeps a tensor in 'membrane'"):
        capture(model, torch.rand(3, 6))

    assert model.membrane == 0.0


def test_an_attribute_that_is_only_written_is_harmless() -> None:
    class Watched(HandWritten):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.seen = super().forward(x)
            return self.seen

    torch.manual_seed(0)
    model = Watched()

    fast = Transformed(model, (), "steps", None)
    x = 2 * torch.rand(4, 2, 6)

    assert torch.equal(fast(x)[0], model(x)[0])

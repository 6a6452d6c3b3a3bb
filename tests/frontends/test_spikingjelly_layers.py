# pyright: basic
# mypy: disallow-subclassing-any=False, warn-return-any=False
"""What SpikingJelly's other modules mean: layers over time, dropout, containers, refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from snncompile.errors import CaptureError
from snncompile.frontends.spikingjelly import FRONTEND
from tests.frontends.eager import EagerLowering

IMAGES = (4, 6, 6)
LAYERS: list[tuple[Callable[..., nn.Module], type[nn.Module], tuple[int, ...]]] = [
    (lambda **o: layer.Conv1d(4, 3, 3, **o), nn.Conv1d, (4, 6)),
    (lambda **o: layer.Conv2d(4, 3, 3, **o), nn.Conv2d, IMAGES),
    (lambda **o: layer.Conv3d(4, 3, 3, **o), nn.Conv3d, (4, 6, 6, 6)),
    (lambda **o: layer.ConvTranspose1d(4, 3, 3, **o), nn.ConvTranspose1d, (4, 6)),
    (lambda **o: layer.ConvTranspose2d(4, 3, 3, **o), nn.ConvTranspose2d, IMAGES),
    (lambda **o: layer.ConvTranspose3d(4, 3, 3, **o), nn.ConvTranspose3d, (4, 6, 6, 6)),
    (lambda **o: layer.Linear(5, 3, **o), nn.Linear, (5,)),
    (lambda **o: layer.BatchNorm1d(4, **o), nn.BatchNorm1d, (4,)),
    (lambda **o: layer.BatchNorm2d(4, **o), nn.BatchNorm2d, IMAGES),
    (lambda **o: layer.BatchNorm3d(4, **o), nn.BatchNorm3d, (4, 6, 6, 6)),
    (lambda **o: layer.GroupNorm(2, 4, **o), nn.GroupNorm, IMAGES),
    (lambda **o: layer.MaxPool1d(2, **o), nn.MaxPool1d, (4, 6)),
    (lambda **o: layer.MaxPool2d(2, **o), nn.MaxPool2d, IMAGES),
    (lambda **o: layer.MaxPool3d(2, **o), nn.MaxPool3d, (4, 6, 6, 6)),
    (lambda **o: layer.AvgPool1d(2, **o), nn.AvgPool1d, (4, 6)),
    (lambda **o: layer.AvgPool2d(2, **o), nn.AvgPool2d, IMAGES),
    (lambda **o: layer.AvgPool3d(2, **o), nn.AvgPool3d, (4, 6, 6, 6)),
    (lambda **o: layer.AdaptiveAvgPool1d(2, **o), nn.AdaptiveAvgPool1d, (4, 6)),
    (lambda **o: layer.AdaptiveAvgPool2d(2, **o), nn.AdaptiveAvgPool2d, IMAGES),
    (lambda **o: layer.AdaptiveAvgPool3d(2, **o), nn.AdaptiveAvgPool3d, (4, 6, 6, 6)),
    (lambda **o: layer.Upsample(scale_factor=2, **o), nn.Upsample, IMAGES),
    (layer.Flatten, nn.Flatten, IMAGES),
]


@pytest.mark.parametrize(
    ("make", "kind", "shape"), LAYERS, ids=[kind.__name__ for _, kind, _ in LAYERS]
)
def test_one_step_of_a_layer_is_the_torch_layer(
    make: Callable[..., Any], kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    module = make(step_mode="m").eval()
    sequence = torch.randn(3, 2, *shape)

    assert FRONTEND.stateless(module) is kind
    assert FRONTEND.refusal(module) is None
    steps = torch.stack([kind.forward(module, current) for current in sequence])

    assert torch.allclose(steps, module(sequence), atol=1e-6)
    assert FRONTEND.takes_sequences(module)
    assert FRONTEND.stateless(make(step_mode="s")) is kind
    assert not FRONTEND.takes_sequences(make(step_mode="s"))


@pytest.mark.parametrize(
    ("module", "kind", "shape"),
    [
        (layer.ThresholdDependentBatchNorm1d(0.7, 1.0, 4), nn.BatchNorm1d, (4,)),
        (layer.ThresholdDependentBatchNorm2d(0.7, 1.0, 4), nn.BatchNorm2d, IMAGES),
        (layer.ThresholdDependentBatchNorm3d(0.7, 1.0, 4), nn.BatchNorm3d, (4, 6, 6, 6)),
    ],
)
def test_a_threshold_dependent_batch_norm_is_a_batch_norm(
    module: nn.Module, kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    sequence = torch.randn(3, 2, *shape)

    assert FRONTEND.stateless(module) is kind
    steps = torch.stack([kind.forward(module.eval(), current) for current in sequence])

    assert torch.allclose(steps, module(sequence), atol=1e-6)


class Scaled(layer.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)  # pyright: ignore[reportReturnType]


class Named(layer.Conv2d):
    pass


@pytest.mark.parametrize(
    "module",
    [
        layer.WSConv2d(4, 3, 3),
        layer.TemporalEffectiveBatchNorm2d(3, 4),
        layer.VotingLayer(2),
        Scaled(4, 3, 3, step_mode="m"),
        nn.Conv2d(4, 3, 3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_layer_that_computes_something_else_is_left_to_the_capture(module: nn.Module) -> None:
    assert FRONTEND.stateless(module) is None
    assert FRONTEND.refusal(module) is None
    assert not FRONTEND.covers(module)


def test_a_subclass_that_changes_nothing_is_the_torch_layer() -> None:
    assert FRONTEND.stateless(Named(4, 3, 3, step_mode="m")) is nn.Conv2d


@pytest.mark.parametrize("kind", [layer.Dropout, layer.Dropout2d])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_dropout_draws_the_library_s_mask_once_and_keeps_it_until_a_reset(
    kind: Callable[..., Any], mode: str
) -> None:
    module = kind(0.4, step_mode=mode)
    lowering, sequence = EagerLowering(), torch.ones(5, 2, *IMAGES)

    def lowered() -> Tensor:
        torch.manual_seed(11)
        FRONTEND.begin(module)
        if mode == "m":
            outputs = FRONTEND.lower(module, lowering, sequence)
        else:
            outputs = torch.stack([FRONTEND.lower(module, lowering, x) for x in sequence])
        FRONTEND.end(module, lowering)
        return outputs

    first = lowered()
    torch.manual_seed(12)
    again = lowered()
    module.reset()
    torch.manual_seed(11)
    library = module(sequence) if mode == "m" else torch.stack([module(x) for x in sequence])

    assert torch.equal(first, library)
    assert torch.equal(again, first)
    assert 0.2 < (first == 0).double().mean() < 0.6
    assert torch.equal(first, first[:1].expand_as(first))


def test_a_reset_of_dropout_within_a_forward_draws_anew() -> None:
    module, lowering, ones = layer.Dropout(0.5), EagerLowering(), torch.ones(4, 50)
    FRONTEND.begin(module)
    first = FRONTEND.lower(module, lowering, ones)
    functional.reset_net(module)
    second = FRONTEND.lower(module, lowering, ones)
    functional.reset_net(module)
    FRONTEND.end(module, lowering)

    assert not torch.equal(first, second)
    (mask,) = lowering.held.values()
    assert torch.equal(mask, torch.full_like(ones, -1.0))


def test_dropout_in_eval_is_the_identity() -> None:
    module, ones = layer.Dropout(0.5).eval(), torch.ones(4, 5)
    FRONTEND.begin(module)

    assert FRONTEND.covers(module)
    assert FRONTEND.lower(module, EagerLowering(), ones) is ones
    assert FRONTEND.spikes(module, ones) is None


@pytest.fixture
def lowering(monkeypatch: pytest.MonkeyPatch) -> EagerLowering:
    """A lowering that also lowers the modules that a container calls."""
    emitted, original = EagerLowering(), nn.Module.__call__

    def call(module: nn.Module, *args: Tensor) -> Tensor:
        if FRONTEND.covers(module):
            return FRONTEND.lower(module, emitted, *args)
        return original(module, *args)

    monkeypatch.setattr(nn.Module, "__call__", call)
    return emitted


@pytest.mark.parametrize("kind", ["MultiStepContainer", "StepModeContainer"])
def test_a_container_loops_over_time(kind: str, lowering: EagerLowering) -> None:
    torch.manual_seed(0)
    plain: Any = neuron.IFNode()
    parts = nn.Linear(5, 7), plain
    steps = kind == "StepModeContainer"
    module = (
        layer.StepModeContainer(True, "m", *parts) if steps else layer.MultiStepContainer(*parts)
    )
    sequence = 4 * torch.randn(8, 3, 5)
    expected = torch.stack([plain.forward(x) for x in parts[0].forward(sequence)])
    FRONTEND.begin(plain)

    spikes = module(sequence)

    assert lowering.calls == ["lif"] * 8
    assert torch.equal(spikes, expected)
    assert 0.05 < spikes.mean() < 0.95
    with pytest.raises(CaptureError, match="IFNode starts a sequence"):
        module(sequence)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (layer.VotingLayer(2, step_mode="m"), (6,)),
        (layer.WSConv2d(4, 3, 3, step_mode="m"), IMAGES),
    ],
)
def test_a_layer_with_a_step_of_its_own_repeats_it(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    sequence = torch.randn(3, 2, *shape)

    steps = FRONTEND.lower(module, EagerLowering(), sequence)

    assert FRONTEND.covers(module)
    assert torch.allclose(steps, module(sequence), atol=1e-6)


def test_a_container_that_folds_time_is_entered() -> None:
    inner = nn.Linear(5, 3), nn.ReLU()

    for container in (layer.SeqToANNContainer(*inner), layer.StepModeContainer(False, "m", *inner)):
        assert FRONTEND.stateless(container) is None
        assert not FRONTEND.covers(container)
        assert FRONTEND.refusal(container) is None

"""Convolutions read their inputs channels last, and nothing but rounding and speed changes."""

# pyright: basic

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import snncompile
from snncompile.ir.dependence import components
from snncompile.ir.program import Program
from snncompile.passes.channels_last import ChannelsLast
from snncompile.runtime.schedule import ScheduleName
from tests.models import CASES, Case
from tests.passes.networks import VGG, lively_
from tests.programs import Step

RESNET = next(case for case in CASES if case.name == "spiking_resnet18")


def reordered(program: Program) -> list[fx.Node]:
    return [node for node in program.step.nodes if node.target == "contiguous"]


def test_a_value_that_two_convolutions_read_is_reordered_once() -> None:
    step = Step(nn.ModuleDict({key: nn.Conv2d(2, 2, 1) for key in "ab"}))
    x = step.input("x", 2, 4, 4)
    program = step.program(step.call(torch.add, step.module("a", x), step.module("b", x)))

    assert ChannelsLast()(program) == 2
    assert len(reordered(program)) == 1


def test_a_call_of_the_function_is_a_convolution_too() -> None:
    step = Step(nn.Conv2d(2, 3, 3))
    x = step.input("x", 2, 4, 4)
    program = step.program(step.call(torch.conv2d, x, step.graph.get_attr("weight")))

    assert ChannelsLast()(program) == 1
    (node,) = reordered(program)
    assert node.all_input_nodes == [program.placeholders()[0]]


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 4), nn.Conv1d(2, 2, 3), nn.ConvTranspose2d(2, 2, 3)]
)
def test_other_layers_stay_as_they_are(layer: nn.Module) -> None:
    step = Step(nn.ModuleDict({"layer": layer}))
    shape = (2, 4, 4) if isinstance(layer, nn.ConvTranspose2d) else (2, 4)
    program = step.program(step.module("layer", step.input("x", *shape)))

    assert ChannelsLast()(program) == 0
    assert reordered(program) == []


def test_a_reordered_value_still_folds_time_into_the_batch() -> None:
    step = Step(nn.ModuleDict({"conv": nn.Conv2d(2, 2, 3)}))
    program = step.program(step.module("conv", step.input("x", 2, 4, 4)))
    ChannelsLast()(program)

    assert {component.kind for component in components(program)} == {"batchwise"}


def test_convolutions_of_a_network_meet_nothing_but_channels_last() -> None:
    model = lively_(VGG()).train()
    fast = snncompile.transform(model, "channels-last", schedule="layers")
    met: list[bool] = []

    def see(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        met.extend(v.is_contiguous(memory_format=torch.channels_last) for v in (*given, made))

    fast(torch.rand(3, 2, 2, 8, 8))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(see)
    fast(torch.rand(3, 2, 2, 8, 8))

    assert len(met) >= 8
    assert all(met)


@pytest.mark.parametrize("schedule", ["steps", "layers"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_spikes_of_a_library_network_move_only_at_the_threshold(
    schedule: ScheduleName, train: bool
) -> None:
    model = RESNET.model(train=train)
    fast = snncompile.transform(model, "channels-last", schedule=schedule)

    report = snncompile.verify(model, fast, RESNET.input())

    assert report.explained, str(report)


@pytest.mark.parametrize("case", [RESNET, CASES[0]], ids=lambda case: case.name)
def test_in_double_precision_outputs_and_gradients_agree(case: Case) -> None:
    model = case.model(dtype=torch.float64)
    fast = snncompile.transform(model, "channels-last", schedule="layers")

    report = snncompile.verify(model, fast, case.input(dtype=torch.float64))

    assert report.ok, str(report)
    assert max(gradient.error for gradient in report.gradients) <= 1e-12


def test_weights_stay_the_models_own_in_their_own_order() -> None:
    model = lively_(VGG()).train()
    strides = {key: value.stride() for key, value in model.state_dict().items()}
    fast = snncompile.transform(copy.deepcopy(model), "channels-last")

    fast(torch.rand(3, 2, 2, 8, 8)).sum().backward()

    assert {key: value.stride() for key, value in fast.state_dict().items()} == strides
    assert all(value.grad is not None for value in fast.parameters())

# pyright: basic
# mypy: disallow-subclassing-any=False, warn-return-any=False
"""What of SpikingJelly is kept whole, left alone, or refused, and what a refusal says."""

import pytest
import torch
from spikingjelly.activation_based import base, layer, neuron, surrogate
from torch import Tensor, nn

from snncompile.frontends.spikingjelly import FRONTEND
from tests.frontends.spikingjelly_cases import LibraryModule


def test_parallel_neurons_are_kept_whole() -> None:
    whole = [
        neuron.PSN(4),
        neuron.MaskedPSN(2, 4, step_mode="m"),
        neuron.SlidingPSN(2, step_mode="m"),
    ]

    assert all(FRONTEND.whole(module) for module in whole)
    assert not any(FRONTEND.covers(module) for module in whole)
    assert all(FRONTEND.refusal(module) is None for module in whole)
    assert not FRONTEND.whole(neuron.IFNode(step_mode="m"))


@pytest.mark.parametrize("module", [neuron.MaskedPSN(2, 4), neuron.SlidingPSN(2)], ids=repr)
def test_a_parallel_neuron_step_by_step_is_refused(module: nn.Module) -> None:
    assert not FRONTEND.whole(module)
    assert "reads many steps for every output" in (FRONTEND.refusal(module) or "")
    assert "set step_mode='m'" in (FRONTEND.refusal(module) or "")


NO_NUMBER: LibraryModule = None


class OwnDynamics(neuron.SimpleLIFNode):
    def neuronal_charge(self, x: Tensor) -> None:
        self.v: Tensor = 0.9 * self.v + x


class OwnState(base.MemoryModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_memory("count", 0.0)


class OwnName(neuron.LIFNode):
    pass


class OwnNetwork(base.MemoryModule):
    pass


@pytest.mark.parametrize(
    "module",
    [
        OwnDynamics(2.0, True),
        OwnState(),
        neuron.QIFNode(),
        neuron.EIFNode(),
        neuron.IzhikevichNode(),
        neuron.ComplementaryLIFNode(),
        neuron.HalfThresholdIFNode(),
        neuron.LIAFNode(torch.relu, threshold_related=False),
        neuron.NonSpikingLIFNode(),
        layer.SynapseFilter(),
        layer.Delay(2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_module_with_another_state_is_refused_by_name(module: nn.Module) -> None:
    refusal = FRONTEND.refusal(module) or ""

    assert not FRONTEND.covers(module)
    assert refusal.startswith(
        f"{type(module).__name__} keeps a state that snncompile does not know"
    )
    assert "IFNode, LIFNode, ParametricLIFNode, KLIFNode, CUBALIFNode, ILIFNode" in refusal


def test_what_changes_nothing_or_keeps_nothing_is_not_refused() -> None:
    assert FRONTEND.covers(OwnName())
    assert FRONTEND.refusal(OwnName()) is None
    assert FRONTEND.refusal(OwnNetwork()) is None
    assert FRONTEND.refusal(nn.Linear(2, 2)) is None


def _precise() -> nn.Module:
    module: LibraryModule = neuron.LIFNode(step_mode="m")
    module._neuron_precision = (torch.float32, "fp32", "fp32")
    return module


def _multi(module: LibraryModule) -> nn.Module:
    module.step_mode = "m"
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (_precise(), "it has a neuron precision of its own"),
        (_multi(neuron.OTTTLIFNode()), "needs single steps; set step_mode='s'"),
        (_multi(neuron.SLTTLIFNode()), "needs single steps; set step_mode='s'"),
        (neuron.SimpleLIFNode(2.0, True, v_reset=NO_NUMBER), "v_reset, which is None"),
        (neuron.SimpleLIFNode(2.0, False, v_reset=-0.1), "rounds its first step as Python does"),
        (
            neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(4, True, (-1, 4))),
            "its gradient window is (-1, 4)",
        ),
    ],
)
def test_a_setting_that_is_not_covered_is_refused(module: nn.Module, reason: str) -> None:
    refusal = FRONTEND.refusal(module) or ""

    assert not FRONTEND.covers(module)
    assert refusal.startswith(f"{type(module).__name__} of SpikingJelly is not covered")
    assert reason in refusal

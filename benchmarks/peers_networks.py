"""One network as every peer writes it, from the same parameters.

A network is a row of stages: a stateless module and, behind it, a layer of LIF neurons with decay
1/2, threshold 1, a subtracting reset and the ATan surrogate. Every network takes [T, N, ...] and
returns the last layer's spikes, [T, N, ...], from rest.

SpikingJelly's neurons and the hand-written ones are the same to the bit. snnTorch detaches the
reset; Norse's box cell halves its current, its LIF has a synaptic current; surrogates differ.
"""

# pyright: basic

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import norse.torch as norse
import snntorch
import torch
from norse.torch.functional.reset import reset_subtract
from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate
from torch import Tensor, nn

Stages = Sequence[nn.Module]

DECAY, THRESHOLD = 0.5, 1.0


def perceptron(widths: Sequence[int], gain: float) -> Stages:
    """Linear layers, from one width to the next; `gain` multiplies the weights at birth."""
    stages = [nn.Linear(widths[i], widths[i + 1]) for i in range(len(widths) - 1)]
    with torch.no_grad():
        for stage in stages:
            stage.weight.mul_(gain)
    return stages


Halving = Literal["mean", "max", "stride"]


def convolutions(channels: Sequence[int], scale: float = 0.7, by: Halving = "mean") -> Stages:
    """Convolutions of images of three channels with BatchNorm.

    Args:
        channels: Of every convolution's output.
        scale: BatchNorm's.
        by: What halves the maps between two of them: a pooling, or the convolution's stride.
    """
    stages: list[nn.Module] = []
    pool = {"mean": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "stride": nn.Identity()}[by]
    for into, out in pairwise((3, *channels)):
        stride = 2 if stages and by == "stride" else 1
        convolution = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
        norm = nn.BatchNorm2d(out)
        nn.init.constant_(norm.weight, scale)
        stages.append(nn.Sequential(*([pool] if stages else []), convolution, norm))
    return stages


def copied(stages: Stages) -> nn.ModuleList:
    """The stages with parameters and buffers of their own."""
    return nn.ModuleList(copy.deepcopy(stage) for stage in stages)


def at_once(stage: nn.Module, x: Tensor) -> Tensor:
    """A stateless module on all steps at once, [T, N, ...]."""
    return stage(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Rate(nn.Module):
    """Firing rates, [N, ...], of a network's spikes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The mean over time."""
        return self.network(x).mean(0)


# Hand-written ------------------------------------------------------------------------------------


class Spike(torch.autograd.Function):
    """The step function; backward the derivative of atan(pi x) / pi, which is ATan's."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:  # noqa: ANN401
        """1 at and above zero."""
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        """The gradient times 1 / (1 + (pi x)^2)."""
        (distance,) = ctx.saved_tensors
        return gradient / (1 + (math.pi * distance) ** 2)


def fire(membrane: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """One step: spikes and the membrane after it."""
    charged = DECAY * membrane + current
    spikes = Spike.apply(charged - THRESHOLD)
    return spikes, charged - spikes


class EagerLoop(nn.Module):
    """A loop over time around all layers."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = copied(stages)

    def forward(self, x: Tensor) -> Tensor:
        """See the module."""
        membranes: list[Tensor | None] = [None] * len(self.stages)
        spikes = []
        for value in x.unbind(0):
            for i, stage in enumerate(self.stages):
                current = stage(value)
                membrane = torch.zeros_like(current) if membranes[i] is None else membranes[i]
                value, membranes[i] = fire(membrane, current)  # noqa: PLW2901
            spikes.append(value)
        return torch.stack(spikes)


class EagerBatched(nn.Module):
    """Layer by layer: stateless modules on all steps at once, a loop over time in each neuron."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = copied(stages)

    def forward(self, x: Tensor) -> Tensor:
        """See the module."""
        return self.layers(x)[-1]

    def layers(self, x: Tensor) -> list[Tensor]:
        """The spikes of every layer."""
        found = []
        for stage in self.stages:
            current = at_once(stage, x)
            membrane, spikes = torch.zeros_like(current[0]), []
            for value in current.unbind(0):
                fired, membrane = fire(membrane, value)
                spikes.append(fired)
            x = torch.stack(spikes)
            found.append(x)
        return found


class Stateless(nn.Module):
    """The stateless modules alone, on all steps at once: what remains when neurons cost nothing."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = copied(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Currents, [T, N, ...]."""
        for stage in self.stages:
            x = at_once(stage, x)
        return x


# Libraries ---------------------------------------------------------------------------------------


class Stage(nn.Sequential):
    """A stateless module and its neurons: what is checkpointed as one."""


class SpikingJelly(nn.Module):
    """SpikingJelly's modules; "m" takes whole sequences, "s" is called once a step."""

    def __init__(self, stages: Stages, mode: str = "m") -> None:
        super().__init__()
        self.mode = mode
        self.stages = nn.Sequential()
        for stage in copied(stages):
            lif = neuron.LIFNode(
                tau=2.0, decay_input=False, v_reset=None, surrogate_function=surrogate.ATan(2.0)
            )
            stateless = layer.SeqToANNContainer(stage) if mode == "m" else stage
            self.stages.append(Stage(stateless, lif))
        functional.set_step_mode(self.stages, mode)

    def forward(self, x: Tensor) -> Tensor:
        """See the module; `rest` first."""
        if self.mode == "m":
            return self.stages(x)
        return torch.stack([self.stages(value) for value in x.unbind(0)])

    def rest(self) -> None:
        """Back to rest."""
        functional.reset_net(self.stages)

    def optimized(self, x: Tensor) -> "SpikingJelly":
        """Its own memory optimization at the highest level that runs without a GPU, 1."""

        def run(model: nn.Module) -> None:
            functional.reset_net(model)
            model(x[:2])

        memopt.optimize_memory(self.stages, Stage, run, level=1)
        self.rest()
        return self

    def chunked(self, x: Tensor) -> "SpikingJelly":
        """Its checkpoints by hand: spikes kept as bits, recomputed in 8 chunks of time."""
        chunks = min(8, len(x))
        for i, stage in enumerate(self.stages):
            bits = memopt.BitSpikeCompressor()
            self.stages[i] = memopt.checkpoint_module(stage, compressor=bits, chunks=chunks)
        return self


class SnnTorch(nn.Module):
    """snnTorch's Leaky in a loop over time."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = copied(stages)
        self.neurons = nn.ModuleList(
            snntorch.Leaky(beta=DECAY, spike_grad=snntorch.surrogate.atan(2.0)) for _ in stages
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the module."""
        membranes = [lif.reset_mem() for lif in self.neurons]
        spikes = []
        for value in x.unbind(0):
            for i, (stage, lif) in enumerate(zip(self.stages, self.neurons, strict=True)):
                value, membranes[i] = lif(stage(value), membranes[i])  # noqa: PLW2901
            spikes.append(value)
        return torch.stack(spikes)


class NorseBox(nn.Module):
    """Norse's LIFBoxCell in a loop over time; decay 1/2, doubled weights for its halved current."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_doubled(stage) for stage in copied(stages))
        half = torch.tensor(500.0)
        settings = norse.LIFBoxParameters(tau_mem_inv=half, reset_method=reset_subtract)
        self.neurons = nn.ModuleList(norse.LIFBoxCell(settings) for _ in stages)

    def forward(self, x: Tensor) -> Tensor:
        """See the module."""
        states: list[Any] = [None] * len(self.stages)
        spikes = []
        for value in x.unbind(0):
            for i, (stage, lif) in enumerate(zip(self.stages, self.neurons, strict=True)):
                value, states[i] = lif(stage(value), states[i])  # noqa: PLW2901
            spikes.append(value)
        return torch.stack(spikes)


def _doubled(stage: nn.Module) -> nn.Module:
    """The stage with twice its output."""
    last = stage[-1] if isinstance(stage, nn.Sequential) else stage
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(2)
    return stage


class NorseSequence(nn.Module):
    """Norse's LIF over sequences, behind modules on all steps at once."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = copied(stages)
        self.neurons = nn.ModuleList(norse.LIF() for _ in stages)

    def forward(self, x: Tensor) -> Tensor:
        """See the module."""
        for stage, lif in zip(self.stages, self.neurons, strict=True):
            x, _ = lif(at_once(stage, x))
        return x

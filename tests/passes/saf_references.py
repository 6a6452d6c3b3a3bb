"""The networks of `saf_networks` written out for online learning, for their gradients by step.

Each takes its parameters from the plain network and its rules from `tests.reference`: a synapse's
value comes from spikes, its gradient from traces, and the past is constant.
"""
# pyright: basic

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import snncompile.nn as own
from tests.passes import saf_networks
from tests.reference.online import LossGradient, Rule
from tests.reference.online_networks import Lif, Operation, Signal, given, joined, synapse

DECAYS = (0.5, 0.25)

READ_OUT = 0.5
"""The decay of every neuron that a read-out reads."""

SUM_ORDER = 1e-12
"""Relative to the largest, in float64: two gradients add in another order."""

StepGradients: TypeAlias = dict[str, Tensor]
"""By the parameter's name in the plain network."""


def slope(distance: Tensor) -> Tensor:
    """Of the sigmoid surrogate with alpha 4."""
    sigmoid = torch.sigmoid(4.0 * distance)
    return 4.0 * sigmoid * (1 - sigmoid)


def lif(decay: float = 0.5) -> Lif:
    return Lif(decay, slope, consumers=DECAYS)


class Written(ABC):
    """One network, step by step, from rest.

    Args:
        model: The plain network, in float64; BatchNorm in eval mode.
        x: One step of its input, for its size.
        rule: Of `Rule`, `first_layer` and `bias`.
    """

    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        self.model = model
        self.rule = rule
        self.arrived = given(torch.zeros_like(x), DECAYS)
        self.counts = dict.fromkeys(DECAYS, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """One step: the outputs, with a gradient that ends in this step."""
        self.counts = {decay: decay * count + 1 for decay, count in self.counts.items()}
        before = self.arrived if self.rule.first_layer == "trace" else None
        self.arrived = given(x, DECAYS, before)
        return self.step(self.arrived)

    @abstractmethod
    def step(self, x: Signal) -> Tensor:
        """The network."""

    def current(self, signal: Signal, operation: Operation, decay: float = 0.5) -> Tensor:
        """What an affine operation hands to neurons of this decay.

        The accumulation of f(s) is f(a) + (c_t - 1) f(0): all of it has a gradient where the rule
        accumulates biases, only the first term where it counts them once.
        """
        plain = signal is self.arrived and self.rule.first_layer == "input"
        if self.rule.bias == "step" or plain:
            return synapse(signal, operation, decay)
        constants = self.counts[decay] - 1
        return synapse(
            signal,
            operation,
            decay,
            lambda trace: operation(trace) + constants * operation(torch.zeros_like(trace)),
        )

    def read(self, signal: Signal, operation: Operation) -> Tensor:
        """The outputs."""
        return synapse(signal, operation, READ_OUT)


class Chain(Written):
    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        super().__init__(model, x, rule)
        self.neurons = {layer: lif() for layer in model.layers if isinstance(layer, own.LIF)}

    def step(self, x: Signal) -> Tensor:
        signal, current = x, x.spikes
        for layer in self.model.layers:
            if layer in self.neurons:
                signal = self.neurons[layer](current)
            elif layer is self.model.layers[-1]:
                return self.read(signal, layer)
            elif next(layer.parameters(), None) is None:
                signal = signal.through(layer)
            else:
                current = self.current(signal, layer)
        raise AssertionError("a chain ends in its read-out")


class Residual(Written):
    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        super().__init__(model, x, rule)
        self.stem, self.first, self.joint, self.left, self.right = (lif() for _ in range(5))

    def step(self, x: Signal) -> Tensor:
        model = self.model
        spikes = self.stem(self.current(x, model.stem[:2]))
        pooled = self.first(self.current(spikes, model.first[0])).through(model.pool)
        current = self.current(pooled, model.second) + self.current(spikes, model.shortcut)
        joint = self.joint(current)
        left = self.left(self.current(joint, model.left[0])) + joint
        right = self.right(self.current(joint, model.right[0]))
        both = joined([left, right]).through(model.pool)
        return self.read(both.through(lambda value: value.mean((2, 3))), model.head)


class Recurrent(Written):
    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        super().__init__(model, x, rule)
        self.neurons, self.last = lif(), _silent(x, model.back.in_features)

    def step(self, x: Signal) -> Tensor:
        model = self.model
        spikes = self.neurons(self.current(x, model.into) + self.current(self.last, model.back))
        self.last = spikes.past()
        return self.read(spikes, model.head)


class TwoDecays(Written):
    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        super().__init__(model, x, rule)
        self.first, self.slow, self.fast, self.last = lif(), lif(0.5), lif(0.25), lif()

    def step(self, x: Signal) -> Tensor:
        model = self.model
        spikes = self.first(self.current(x, model.into))
        slow = self.slow(self.current(spikes, model.slow, 0.5))
        fast = self.fast(self.current(spikes, model.fast, 0.25))
        return self.read(self.last(self.current(slow + fast, model.last)), model.head)


class SharedSynapse(Written):
    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        super().__init__(model, x, rule)
        self.first, self.second, self.third = (lif() for _ in range(3))

    def step(self, x: Signal) -> Tensor:
        first = self.first(self.current(x, self.model.into))
        second = self.second(self.current(first, self.model.shared))
        third = self.third(self.current(second, self.model.shared))
        return self.read(third, self.model.head)


class Delayed(Written):
    def __init__(self, model: Any, x: Tensor, rule: Rule) -> None:
        super().__init__(model, x, rule)
        self.first, self.second, self.third = (lif() for _ in range(3))
        self.older = self.old = _silent(x, model.skip.in_features)

    def step(self, x: Signal) -> Tensor:
        model = self.model
        first = self.first(self.current(x, model.into))
        second = self.second(self.current(first, model.middle))
        current = self.current(second, model.last) + self.current(self.older, model.skip)
        self.older, self.old = self.old, first.past()
        return self.read(self.third(current), model.head)


def _silent(x: Tensor, width: int) -> Signal:
    return given(x.new_zeros(len(x), width), DECAYS)


WRITTEN: dict[type[nn.Module], Callable[[Any, Tensor, Rule], Written]] = {
    saf_networks.Chain: Chain,
    saf_networks.Residual: Residual,
    saf_networks.Recurrent: Recurrent,
    saf_networks.TwoDecays: TwoDecays,
    saf_networks.SharedSynapse: SharedSynapse,
    saf_networks.Delayed: Delayed,
}


def online_steps(
    model: nn.Module, x: Tensor, loss: LossGradient, rule: Rule | None = None
) -> list[tuple[Tensor, StepGradients]]:
    """Outputs and gradients of every step (OTTT_O), the parameters staying what they are.

    Args:
        model: One of the plain networks, in float64.
        x: [T, N, ...].
        loss: dL[t]/dy[t] from t and y[t].
        rule: As published if not given.
    """
    written = WRITTEN[type(model)](model, x[0], rule or Rule())
    names, parameters = zip(*model.named_parameters(), strict=True)
    steps: list[tuple[Tensor, StepGradients]] = []
    for t, x_t in enumerate(x):
        output = written(x_t)
        found = torch.autograd.grad(output, parameters, loss(t, output.detach()))
        steps.append((output.detach(), dict(zip(names, found, strict=True))))
    return steps


def summed(steps: list[tuple[Tensor, StepGradients]]) -> StepGradients:
    """Over all steps (OTTT_A)."""
    every = [found for _, found in steps]
    return {name: torch.stack([found[name] for found in every]).sum(0) for name in every[0]}


def assert_close(found: StepGradients, expected: StepGradients) -> None:
    """Equal up to `SUM_ORDER`, and none of them zero."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(found[name], value, rtol=0, atol=SUM_ORDER * scale)

"""The reference for networks of any shape against the one by hand, and against finite sums."""
# pyright: basic

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tests.reference import online
from tests.reference.online import Mlp, Rule
from tests.reference.online_examples import (
    BATCH,
    SUM_ORDER,
    TIME,
    UPDATES,
    assert_same,
    decayed,
    make,
    sequence,
    slope,
    squared,
)  # fmt: skip
from tests.reference.online_networks import Lif, Signal, given, joined, synapse


class Written:
    """A network of two spiking layers and a read-out from the pieces of `online_networks`."""

    def __init__(self, net: Mlp, rule: Rule) -> None:
        self.net, self.rule = net, rule
        pairs = zip(net.weights, net.biases, strict=True)
        self.parameters = [p.clone().requires_grad_() for pair in pairs for p in pair]
        first, second = net.decays
        self.neurons = [
            Lif(first, slope, net.threshold, (second,)),
            Lif(second, slope, net.threshold),
        ]
        self.counts = [0.0, 0.0]
        self.before = given(torch.zeros(BATCH, 7, dtype=torch.float64), [first])

    def step(self, x: Tensor) -> Tensor:
        decays = self.net.decays
        self.counts = [d * count + 1 for d, count in zip(decays, self.counts, strict=True)]
        traced = self.before if self.rule.first_layer == "trace" else None
        signal = self.before = given(x, decays[:1], traced)
        for index, neuron_ in enumerate(self.neurons):
            first = index == 0 and self.rule.first_layer == "input"
            accumulated = self.rule.bias == "accumulated" and not first
            scale = self.counts[index] if accumulated else 1.0
            signal = neuron_(self.current(signal, index, decays[index], scale))
        return self.current(signal, 2, decays[1], 1.0)

    def current(self, signal: Signal, index: int, decay: float, scale: float) -> Tensor:
        weight, bias = self.parameters[2 * index : 2 * index + 2]
        return synapse(
            signal,
            lambda spikes: linear(spikes, weight, bias),
            decay,
            lambda trace: linear(trace, weight, scale * bias),
        )

    def gradients(self, t: int, x: Tensor, loss: online.LossGradient) -> online.Gradients:
        output = self.step(x)
        found = torch.autograd.grad(output, self.parameters, loss(t, output.detach()))
        return list(zip(found[::2], found[1::2], strict=True))


RULES = {
    "published": Rule(),
    "trace of the input": Rule(first_layer="trace"),
    "accumulated bias": Rule(bias="accumulated"),
    "both": Rule(first_layer="trace", bias="accumulated"),
}

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


@every_rule
@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_by_hand_and_by_autograd_agree_at_every_step(rule: Rule, threshold: float) -> None:
    net, x, loss = make(threshold=threshold), sequence(), squared()

    found = online.per_step(net, x, loss, rule)

    written = Written(net, rule)
    for t, x_t in enumerate(x):
        assert_same(found[t], written.gradients(t, x_t, loss))


@every_rule
def test_online_training_agrees_by_hand_and_by_autograd(rule: Rule) -> None:
    net = make()
    sequences = [(sequence(), squared()) for _ in range(5)]

    history = online.train_online(net, sequences, 0.05, rule)

    written = Written(net, rule)
    for index, (x, loss) in enumerate(sequences):
        fresh = Written(net, rule)
        fresh.parameters = written.parameters
        written = fresh
        for t, x_t in enumerate(x):
            found = written.gradients(t, x_t, loss)
            with torch.no_grad():
                changes = [gradient for pair in found for gradient in pair]
                for parameter, change in zip(written.parameters, changes, strict=True):
                    parameter.sub_(0.05 * change)
            now = history[index * TIME + t]
            flat = [p for pair in zip(now.weights, now.biases, strict=True) for p in pair]
            torch.testing.assert_close(flat, written.parameters, rtol=UPDATES, atol=UPDATES)


def test_a_recurrent_synapse_learns_from_the_trace_of_the_step_before() -> None:
    torch.manual_seed(0)
    back = (torch.randn(6, 6).double() / 3).requires_grad_()
    x, cells = sequence(6) * 2, Lif(0.5, slope)
    signal = cells(x[0])

    for x_t in x[1:]:
        arrived = signal.past()
        signal = cells(x_t + synapse(arrived, lambda spikes: spikes @ back.T, 0.5))

    [found] = torch.autograd.grad(signal.traces[0.5].sum(), back)
    assert cells.membrane is not None
    assert 0 < signal.spikes.mean() < 1
    expected = slope(cells.membrane - 1.0).T @ arrived.traces[0.5]
    torch.testing.assert_close(found, expected, rtol=SUM_ORDER, atol=SUM_ORDER)


def test_signals_add_join_and_pool_with_their_traces() -> None:
    spikes = torch.randint(0, 2, (TIME, BATCH, 4)).double()
    signal = given(torch.zeros_like(spikes[0]), [0.5, 0.25])
    for x_t in spikes:
        signal = given(x_t, [0.5, 0.25], signal)

    both = joined([signal + signal, signal]).through(lambda value: value.mean(1, keepdim=True))

    for decay in (0.5, 0.25):
        expected = decayed(list(spikes), decay).mean(1, keepdim=True)
        torch.testing.assert_close(both.traces[decay], expected * 1.5)
    torch.testing.assert_close(both.spikes, spikes[-1].mean(1, keepdim=True) * 1.5)

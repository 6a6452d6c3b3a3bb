"""The references of online learning by hand against finite sums, autograd and SpikingJelly."""
# pyright: basic

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
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


def assert_active(steps: list[online.Step]) -> None:
    for spikes in zip(*(step.spikes for step in steps), strict=True):
        assert 0.05 < torch.stack(spikes).mean() < 0.95


def test_traces_are_finite_sums_with_the_consumers_decay() -> None:
    net, x = make(), sequence()

    steps = online.run(net, x)

    assert_active(steps)
    for t, now in enumerate(steps):
        for index, decay in enumerate([0.5, 0.75, 0.75]):
            arrived = [step.arriving[index] for step in steps[: t + 1]]
            torch.testing.assert_close(now.traces[index], decayed(arrived, decay))


def test_membranes_are_finite_sums_less_the_spikes_before() -> None:
    net, x = make(threshold=0.5), sequence()

    steps = online.run(net, x)

    for t, now in enumerate(steps):
        for index, decay in enumerate(net.decays):
            driven = linear(now.traces[index], net.weights[index])
            driven = driven + now.counts[index] * net.biases[index]
            emitted = [step.spikes[index] for step in steps[:t]]
            fired = decayed(emitted, decay) if emitted else torch.zeros_like(driven)
            torch.testing.assert_close(
                now.membranes[index], driven - 0.5 * decay * fired, rtol=SUM_ORDER, atol=SUM_ORDER
            )


def test_neurons_fire_at_the_threshold_too() -> None:
    net = Mlp([torch.eye(2).double()], [torch.zeros(2).double()], [0.5], slope)

    [step] = online.run(net, torch.tensor([[[1.0, 0.9375]]], dtype=torch.float64))

    assert step.spikes[0].tolist() == [[1.0, 0.0]]


def test_what_an_old_weight_brought_in_stays() -> None:
    net, x = make((7, 12), (0.5,)), sequence()

    history = online.train_online(net, [(x, squared(12))], 0.05)

    state, used = online.State(), [net, *history]
    currents, emitted = list[Tensor](), [torch.zeros(BATCH, 12).double()]
    for now_net, x_t in zip(used[:-1], x, strict=True):
        currents.append(linear(x_t, now_net.weights[0], now_net.biases[0]))
        now = online.step(now_net, state, x_t)
        emitted.append(now.spikes[0])
        expected = decayed(currents, 0.5) - 0.5 * decayed(emitted[:-1], 0.5)
        torch.testing.assert_close(now.membranes[0], expected, rtol=SUM_ORDER, atol=SUM_ORDER)
    assert (history[-1].weights[0] - net.weights[0]).abs().max() > 0.01


def test_spikes_in_place_of_traces_are_sltt_and_another_gradient() -> None:
    net, x, loss = make(), sequence(), squared()

    sltt = online.summed(net, x, loss, Rule(presynaptic="spikes"))

    assert_same(sltt, _detached_bptt(net, x, loss))
    ottt = online.summed(net, x, loss)
    assert (ottt[1][0] - sltt[1][0]).abs().max() > 0.1 * ottt[1][0].abs().max()


def _detached_bptt(net: Mlp, x: Tensor, loss: online.LossGradient) -> online.Gradients:
    """Autograd over the sequence with every membrane cut off from the step before."""
    pairs = zip(net.weights, net.biases, strict=True)
    layers = [(w.clone().requires_grad_(), b.clone().requires_grad_()) for w, b in pairs]
    kept = [torch.zeros(())] * len(net.decays)
    found = []
    for t, x_t in enumerate(x):
        value = x_t
        for index, decay in enumerate(net.decays):
            membrane = decay * kept[index] + linear(value, *layers[index])
            fired = (membrane.detach() >= 1.0).double()
            kept[index] = membrane.detach() - fired
            value = fired + slope(membrane.detach() - 1.0) * (membrane - membrane.detach())
        output = linear(value, *layers[-1])
        flat = [p for pair in layers for p in pair]
        found.append(torch.autograd.grad(output, flat, loss(t, output.detach())))
    summed = [torch.stack(each).sum(0) for each in zip(*found, strict=True)]
    return list(zip(summed[::2], summed[1::2], strict=True))


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("readout", [False, True])
def test_the_final_step_is_the_spike_representation_up_to_powers_of_the_threshold(
    threshold: float, readout: bool
) -> None:
    net, x = make((7, 12, 9, 4), (0.5,) * (2 if readout else 3), threshold), sequence()
    rule = Rule(first_layer="trace", bias="accumulated", accumulated_output=True)
    final = online.run(net, x)[-1]
    arriving = online.rates(final)
    slopes = online.clamp_slopes(net, arriving)
    of_rates = torch.randn(BATCH, 4).double()

    representation = online.representation_gradients(net, arriving, slopes, of_rates)

    saf = online.gradients(net, final, of_rates / final.counts[-1], rule, slopes)
    for index, exponent in enumerate([2, 1, 0] if readout else [3, 2, 1]):
        weight, bias = representation[index]
        factor = threshold**exponent
        assert_same([saf[index]], [(factor * weight, factor * bias)])


def test_the_representation_gradient_is_that_of_its_layer_maps() -> None:
    net, x = make(threshold=0.5), torch.rand(BATCH, 7).double()
    of_output = torch.randn(BATCH, 4).double()
    pairs = zip(net.weights, net.biases, strict=True)
    layers = [(w.clone().requires_grad_(), b.clone().requires_grad_()) for w, b in pairs]
    arriving = [x]
    for weight, bias in layers[:-1]:
        arriving.append((linear(arriving[-1], weight, bias) / 0.5).clamp(0, 1))
    output = linear(arriving[-1], *layers[-1])
    expected = torch.autograd.grad(output, [p for pair in layers for p in pair], of_output)

    rates = [rate.detach() for rate in arriving]
    slopes = online.clamp_slopes(net, rates)
    found = online.representation_gradients(net, rates, slopes, of_output)

    assert all(0 < layer_slopes.mean() < 1 for layer_slopes in slopes)
    assert_same(found, list(zip(expected[::2], expected[1::2], strict=True)))


def jelly(net: Mlp) -> layer.OTTTSequential:
    """The same network from SpikingJelly's modules for OTTT."""
    modules: list[nn.Module] = []
    for index, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        synapse_ = layer.Linear(weight.size(1), weight.size(0)).double()
        with torch.no_grad():
            synapse_.weight.copy_(weight)
            synapse_.bias.copy_(bias)
        modules.append(synapse_)
        if index < len(net.decays):
            function = surrogate.Sigmoid(alpha=4.0)
            modules.append(neuron.OTTTLIFNode(tau=2.0, surrogate_function=function))
    return layer.OTTTSequential(*modules).train()


@pytest.fixture
def peer() -> tuple[Mlp, layer.OTTTSequential]:
    """A network and SpikingJelly's, reset."""
    net = make(decays=(0.5, 0.5))
    model = jelly(net)
    functional.reset_net(model)
    return net, model


def test_spikingjelly_computes_the_same_gradients_summed(peer: Any) -> None:
    net, model = peer
    x, loss = sequence(), squared()

    for t, x_t in enumerate(x):
        output = model(x_t)
        output.backward(loss(t, output.detach()))

    found = [parameter.grad for parameter in model.parameters()]
    assert_same(online.summed(net, x, loss), list(zip(found[::2], found[1::2], strict=True)))


def test_spikingjelly_trains_along_the_same_trajectory(peer: Any) -> None:
    net, model = peer
    sequences = [(sequence(), squared()) for _ in range(5)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    history = online.train_online(net, sequences, 0.05)

    for index, (x, loss) in enumerate(sequences):
        functional.reset_net(model)
        for t, x_t in enumerate(x):
            optimizer.zero_grad()
            output = model(x_t)
            output.backward(loss(t, output.detach()))
            optimizer.step()
            expected = history[index * TIME + t]
            weights = [module.weight.data for module in model if isinstance(module, nn.Linear)]
            torch.testing.assert_close(weights, expected.weights, rtol=UPDATES, atol=UPDATES)

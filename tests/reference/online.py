"""Online learning in a multilayer perceptron, by hand: OTTT, SLTT and the spike representation.

Layer l = 1..L is a linear layer and a leaky integrate-and-fire neuron with decay d_l, threshold h
and H(0) = 1; a read-out is one more linear layer without a neuron. With s^0 = x and zero states,

    u^l[t] = d_l (u^l[t-1] - h s^l[t-1]) + W^l s^{l-1}[t] + b^l
    s^l[t] = H(u^l[t] - h)
    a^l[t] = d_{l+1} a^l[t-1] + s^l[t]          the trace that layer l + 1 learns from

A trace decays as its consumer does; the read-out has no decay of its own and takes the last
neuron's. Online gradients are those of one step, everything before it held constant:

    delta^l[t] = dL[t]/ds^l[t] * H'(u^l[t] - h)
    dL[t]/dW^l = delta^l[t] a^{l-1}[t]          OTTT; with s^{l-1}[t] instead it is SLTT
    dL[t]/ds^{l-1}[t] = W^l delta^l[t]

Everything is float64, no autograd. Batches are rows: currents are [N, ...], gradients are summed
over the batch as a loss that sums over it would do.

References: OTTT, Xiao et al. 2022, arXiv:2210.04195; SLTT, Meng et al. 2023, arXiv:2302.14311;
spike representation (DSR), Meng et al. 2022, arXiv:2205.00459; SAF, Saiin et al. 2024,
arXiv:2310.02772.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Slope: TypeAlias = Callable[[Tensor], Tensor]
"""The surrogate derivative H' as a function of u - h."""

LossGradient: TypeAlias = Callable[[int, Tensor], Tensor]
"""dL[t]/dy[t] from the step's number, counted from 0, and the step's output."""

Gradients: TypeAlias = list[tuple[Tensor, Tensor]]
"""(weight, bias) of every layer, the read-out last."""


@dataclass(frozen=True)
class Mlp:
    """Weights and neurons.

    Attributes:
        weights: One [out, in] matrix a layer; one more than `decays` where a read-out follows.
        biases: One [out] vector a layer.
        decays: d_l of every spiking layer.
        slope: The surrogate derivative.
        threshold: h.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    decays: list[float]
    slope: Slope
    threshold: float = 1.0

    @property
    def consumed(self) -> list[float]:
        """The decay of the trace that arrives at each layer."""
        return [*self.decays, *self.decays[-1:]][: len(self.weights)]


@dataclass(frozen=True)
class Rule:
    """What a gradient is made of.

    Attributes:
        presynaptic: The weight's factor: "trace" is OTTT and SAF, "spikes" is SLTT.
        first_layer: The first weight's factor is x[t] ("input") or the trace of x ("trace").
        bias: db is delta ("step"), or c_t delta with c_t = sum of d^k, k < t ("accumulated"); the
            bias of a first layer that learns from its input goes with the weight: delta.
        accumulated_output: The read-out's output is W a_t + c_t b, as in SAF's final step, so
            that `bias` holds for it too; otherwise it is W s[t] + b and db is delta.
    """

    presynaptic: Literal["trace", "spikes"] = "trace"
    first_layer: Literal["input", "trace"] = "input"
    bias: Literal["step", "accumulated"] = "step"
    accumulated_output: bool = False


@dataclass(frozen=True)
class Step:
    """One step: `arriving` and `traces` are what each layer gets, `counts` the c_t of each."""

    arriving: list[Tensor]
    traces: list[Tensor]
    counts: list[float]
    membranes: list[Tensor]
    spikes: list[Tensor]
    output: Tensor


@dataclass
class State:
    """What a network keeps between steps: u - h s of every neuron, and what `Step` accumulates."""

    rest: list[Tensor] = field(default_factory=list[Tensor])
    traces: list[Tensor] = field(default_factory=list[Tensor])
    counts: list[float] = field(default_factory=list[float])


def step(net: Mlp, state: State, x: Tensor) -> Step:
    """One step of the network on x, [N, in]; the state is moved on."""
    if not state.counts:
        _start(net, state, x)
    arriving, membranes, spikes = [x], list[Tensor](), list[Tensor]()
    for layer, decay in enumerate(net.decays):
        current = arriving[-1] @ net.weights[layer].T + net.biases[layer]
        membrane = decay * state.rest[layer] + current
        fired = (membrane >= net.threshold).to(membrane.dtype)
        state.rest[layer] = membrane - net.threshold * fired
        membranes.append(membrane)
        spikes.append(fired)
        arriving.append(fired)
    for layer, decay in enumerate(net.consumed):
        state.traces[layer] = decay * state.traces[layer] + arriving[layer]
        state.counts[layer] = decay * state.counts[layer] + 1.0
    output = arriving[-1]
    if len(net.weights) > len(net.decays):
        output = output @ net.weights[-1].T + net.biases[-1]
    received = arriving[: len(net.weights)]
    return Step(received, list(state.traces), list(state.counts), membranes, spikes, output)


def _start(net: Mlp, state: State, x: Tensor) -> None:
    state.rest = [x.new_zeros(len(x), len(weight)) for weight in net.weights]
    state.traces = [x.new_zeros(len(x), weight.size(1)) for weight in net.weights]
    state.counts = [0.0 for _ in net.weights]


def run(net: Mlp, x: Tensor) -> list[Step]:
    """Every step of a sequence, x is [T, N, in], from rest."""
    state = State()
    return [step(net, state, x_t) for x_t in x]


RULE = Rule()
"""What the published OTTT code computes."""


def gradients(
    net: Mlp,
    moment: Step,
    of_output: Tensor,
    rule: Rule = RULE,
    slopes: Sequence[Tensor] | None = None,
) -> Gradients:
    """Gradients of one step, from that of its output; `slopes` stand for the surrogate's values.

    With T's step and dL/da_T for that of the output these are the gradients of SAF's final
    variant: the output is then the last neuron's accumulation, or the read-out of it, for which
    the rule has `accumulated_output`.
    """
    found: Gradients = []
    flowing = of_output
    if slopes is None:
        slopes = [net.slope(membrane - net.threshold) for membrane in moment.membranes]
    for layer in reversed(range(len(net.weights))):
        spiking = layer < len(net.decays)
        delta = flowing * slopes[layer] if spiking else flowing
        traced = layer > 0 or rule.first_layer == "trace"
        counted = rule.bias == "accumulated" and traced and (spiking or rule.accumulated_output)
        count = moment.counts[layer] if counted else 1.0
        found.append((delta.T @ _factor(moment, layer, rule), count * delta.sum(0)))
        flowing = delta @ net.weights[layer]
    return found[::-1]


def _factor(moment: Step, layer: int, rule: Rule) -> Tensor:
    """What the deltas of a layer are multiplied by."""
    plain = rule.presynaptic == "spikes" or (layer == 0 and rule.first_layer == "input")
    return moment.arriving[layer] if plain else moment.traces[layer]


def per_step(net: Mlp, x: Tensor, loss: LossGradient, rule: Rule = RULE) -> list[Gradients]:
    """OTTT_O: the gradients of every step, the weights being those of `net` throughout."""
    steps = run(net, x)
    return [gradients(net, now, loss(t, now.output), rule) for t, now in enumerate(steps)]


def summed(net: Mlp, x: Tensor, loss: LossGradient, rule: Rule = RULE) -> Gradients:
    """OTTT_A: the sum of the gradients of all steps."""
    return [_add(layers) for layers in zip(*per_step(net, x, loss, rule), strict=True)]


def _add(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    weights, biases = zip(*pairs, strict=True)
    return torch.stack(weights).sum(0), torch.stack(biases).sum(0)


def train_online(
    net: Mlp, sequences: Sequence[tuple[Tensor, LossGradient]], rate: float, rule: Rule = RULE
) -> list[Mlp]:
    """The network after every step of every sequence, each step followed by W -= rate * dW.

    Membranes and traces go on through the updates of their sequence: what an old weight brought
    in stays. A new sequence starts from rest.
    """
    history: list[Mlp] = []
    for x, loss in sequences:
        state = State()
        for t, x_t in enumerate(x):
            now = step(net, state, x_t)
            found = gradients(net, now, loss(t, now.output), rule)
            net = _moved(net, found, rate)
            history.append(net)
    return history


def _moved(net: Mlp, found: Gradients, rate: float) -> Mlp:
    weights = [w - rate * dw for w, (dw, _) in zip(net.weights, found, strict=True)]
    biases = [b - rate * db for b, (_, db) in zip(net.biases, found, strict=True)]
    return Mlp(weights, biases, net.decays, net.slope, net.threshold)


def rates(moment: Step) -> list[Tensor]:
    """The weighted rates r = a_T / c_T that arrive at each layer, 0 to 1 for spikes."""
    return [trace / count for trace, count in zip(moment.traces, moment.counts, strict=True)]


def clamp_slopes(net: Mlp, arriving: list[Tensor]) -> list[Tensor]:
    """The 0/1 derivative of clamp((W r + b) / h, 0, 1) in its argument, for every layer."""
    slopes: list[Tensor] = []
    for layer in range(len(net.decays)):
        drive = (arriving[layer] @ net.weights[layer].T + net.biases[layer]) / net.threshold
        slopes.append(((drive > 0) & (drive < 1)).to(drive.dtype))
    return slopes


def representation_gradients(
    net: Mlp, arriving: list[Tensor], slopes: list[Tensor], of_rates: Tensor
) -> Gradients:
    """The spike representation's gradients of one sequence.

    The layer map is r^l = clamp((W^l r^{l-1} + b^l) / h, 0, 1); a read-out is W r + b.

    Args:
        net: The network.
        arriving: r^{l-1} at every layer, from `rates`.
        slopes: The clamp's derivative at every spiking layer, from `clamp_slopes`, or what stands
            for it; [N, out] each.
        of_rates: dL/dr^L, or dL/dy of the read-out, [N, out].

    Returns:
        The gradients. SAF's final step with the same slopes and one decay throughout, its bias
        "accumulated", its first layer "trace" and dL/da_T = dL/dr / c_T, gives those times
        h^(L+1-l) for layer l = 1..L: it lacks the clamps' factors 1 / h from layer l upwards.
        The read-out's, which has no clamp, are the same.
    """
    found: Gradients = []
    flowing = of_rates
    for layer in reversed(range(len(net.weights))):
        spiking = layer < len(net.decays)
        delta = flowing * slopes[layer] / net.threshold if spiking else flowing
        found.append((delta.T @ arriving[layer], delta.sum(0)))
        flowing = delta @ net.weights[layer]
    return found[::-1]

"""One single-spike layer in several forms; all take [T, N, inputs] and return [T, N, neurons]."""

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn
from torch.nn.functional import conv1d

import snncompile
from snncompile.ir.surrogates import Surrogate, fire
from snncompile.nn import LIF
from snncompile.passes.event_driven import EventDriven
from snncompile.passes.single_spike import SingleSpike
from snncompile.rewrite import Pass  # noqa: TC001

DECAY = 0.905
"""exp(-1 / 10): a time constant of ten steps."""

_SURROGATE = Surrogate("fast_sigmoid", (10.0,))

Layer = Callable[[Tensor], Tensor]


class Lif(nn.Module):
    """A Linear and a LIF neuron in a loop over time, as a person writes it."""

    def __init__(self, synapse: nn.Linear) -> None:
        super().__init__()
        self.synapse = synapse
        self.lif = LIF(decay=DECAY)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of every step."""
        return torch.stack([self.lif(self.synapse(value)) for value in x.unbind(0)])


def loop(synapse: nn.Linear, *, batched: bool) -> Layer:
    """The sequential single-spike neuron under autograd.

    Args:
        synapse: The Linear.
        batched: Currents of all steps in one product; otherwise one a step.
    """

    def run(x: Tensor) -> Tensor:
        currents = (synapse(x) if batched else x).unbind(0)
        membrane = fired = torch.zeros(x.shape[1], synapse.out_features)
        spikes: list[Tensor] = []
        for value in currents:
            membrane = DECAY * membrane + (value if batched else synapse(value))
            crossed = fire(membrane - 1.0, _SURROGATE, strict=False)
            spikes.append(crossed * (1 - fired))
            fired = fired + spikes[-1]
        return torch.stack(spikes)

    return run


def convolution(synapse: nn.Linear) -> Layer:
    """The published form: two convolutions with kernels as long as the sequence."""

    def run(x: Tensor) -> Tensor:
        steps = len(x)
        current = synapse(x).permute(1, 2, 0).flatten(0, 1).unsqueeze(1)
        since = torch.arange(steps - 1, -1, -1, dtype=x.dtype)
        membrane = conv1d(current, (DECAY**since).view(1, 1, -1), padding=steps - 1)[..., :steps]
        crossed = fire(membrane - 1.0, _SURROGATE, strict=False)
        z = conv1d(crossed, (since + 1).view(1, 1, -1), padding=steps - 1)[..., :steps]
        spikes = z - torch.where(z == 1, torch.zeros_like(z), z).detach()
        return spikes.view(x.shape[1], -1, steps).permute(2, 0, 1)

    return run


def spikingjelly(synapse: nn.Linear) -> Layer:
    """SpikingJelly's multi-step LIF, which fires as often as it likes."""
    tau = 1 / (1 - DECAY)
    lif = neuron.LIFNode(tau=tau, decay_input=False, step_mode="m")

    def run(x: Tensor) -> Tensor:
        functional.reset_net(lif)
        return lif(synapse(x))

    return run


def compiled(synapse: nn.Linear, *, events: bool) -> Layer:
    """Ours; with `events` the synapse may add up the events of its input."""
    module = Lif(synapse)
    chosen: list[Pass] = [SingleSpike(accept="first-spike-only")]
    chosen += [EventDriven()] if events else []
    inputs = torch.zeros(4, 2, synapse.in_features)
    fast = snncompile.transform(module, chosen, schedule="layers", example_inputs=inputs)

    def run(x: Tensor) -> Tensor:
        fast.reset()
        return fast(x)

    return run

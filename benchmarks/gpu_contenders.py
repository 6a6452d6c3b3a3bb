"""One stack of synapses and LIF neurons in several forms; all take and return [T, N, ...].

Soft reset, decay 0.5, threshold 1, arctan surrogate. SpikingJelly's neurons are set up to be the
same; snnTorch's reset takes effect a step later and carries no gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import snncompile
from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.nn import LIF
from snncompile.runtime.scan import NeuronScan, scan

SETTINGS: tuple[tuple[str, Any], ...] = (
    ("charge", neurons.Decay(0.5)),
    ("threshold", 1.0),
    ("reset", neurons.Subtract()),
    ("surrogate", Surrogate("atan", (2.0,))),
)
Layers = Callable[[Tensor], Tensor]
Contender = Callable[[Sequence[nn.Module], Tensor], Layers]
"""From synapses, and a short sequence for who wants to see one."""


def kernels(synapses: Sequence[nn.Module], example: Tensor) -> Layers:
    """Synapses over all steps at once, neurons by kernels; fails where there is none."""
    neuron = NeuronScan(neurons.lif, SETTINGS)

    def run(x: Tensor) -> Tensor:
        for synapse in synapses:
            current = synapse(x)
            found = neuron.fused(current, (torch.zeros_like(current[0]),), (), (0,))
            assert found is not None, "there is no kernel"
            assert found[0][0] is not None
            x = found[0][0]
        return x

    return run


def eager(synapses: Sequence[nn.Module], example: Tensor) -> Layers:
    """Synapses over all steps at once, neurons in a loop over time."""

    def run(x: Tensor) -> Tensor:
        for synapse in synapses:
            current = synapse(x)
            found = scan(neurons.lif, current, (torch.zeros_like(current[0]),), SETTINGS, (0,))
            assert found[0][0] is not None
            x = found[0][0]
        return x

    return run


class _Loop(nn.Module):
    """A network of one step, in a loop over time, as a person writes it."""

    def __init__(self, synapses: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [(synapse, LIF(decay=0.5, surrogate="atan")) for synapse in synapses]
        self.layers = nn.Sequential(*(module for layer in layers for module in layer))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layers(value) for value in x.unbind(0)])


def transformed(synapses: Sequence[nn.Module], example: Tensor) -> Layers:
    """A loop over time, transformed by snncompile without a pass."""
    network = snncompile.transform(_Loop(synapses), [], example_inputs=example)

    def run(x: Tensor) -> Tensor:
        network.reset()
        return network(x)

    return run


def spikingjelly(synapses: Sequence[nn.Module], example: Tensor) -> Layers:
    """SpikingJelly's multi-step neurons, with whichever kernels its environment variable names."""
    from spikingjelly.activation_based import functional, neuron, surrogate  # noqa: PLC0415

    layers: list[nn.Module] = []
    for synapse in synapses:
        lif = neuron.LIFNode(
            2.0, decay_input=False, v_reset=None, surrogate_function=surrogate.ATan(2.0)
        )
        lif.step_mode = "m"
        layers += [synapse, lif]
    network = nn.Sequential(*layers)

    def run(x: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(x)

    return run


def snntorch(synapses: Sequence[nn.Module], example: Tensor) -> Layers:
    """Neurons of snnTorch, one step at a time after synapses over all steps."""
    import snntorch as library  # noqa: PLC0415
    from snntorch import surrogate  # noqa: PLC0415

    lifs = [library.Leaky(beta=0.5, spike_grad=surrogate.atan(2.0)) for _ in synapses]

    def run(x: Tensor) -> Tensor:
        for synapse, lif in zip(synapses, lifs, strict=True):
            current = synapse(x)
            membrane = torch.zeros_like(current[0])
            spikes: list[Tensor] = []
            for value in current.unbind(0):
                fired, membrane = lif(value, membrane)
                spikes.append(fired)
            x = torch.stack(spikes)
        return x

    return run


CONTENDERS: Mapping[str, Contender] = {
    "kernels": kernels,
    "transformed": transformed,
    "eager": eager,
    "snntorch": snntorch,
    "spikingjelly": spikingjelly,
}
"""By name; "eager" is what the others' spikes are compared with."""

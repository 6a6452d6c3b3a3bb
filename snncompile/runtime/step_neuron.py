"""One step of a neuron: a fused kernel for many neurons, the definition itself for few."""

from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from snncompile.ir.reversible import reversible_lif
from snncompile.kernels.settings import Settings, fill, split
from snncompile.runtime.scan import Neuron, fused_scan

LEAST = 2**16
"""Neurons times batch from which a kernel takes less time to call than it saves."""


class NeuronStep:
    """A neuron, ready to be run for one step.

    Args:
        neuron: One of `snncompile.ir.neurons`.
        settings: Its keyword arguments, by name, with holes for tensors (`split`).
    """

    def __init__(self, neuron: Neuron, settings: Settings) -> None:
        self.neuron = neuron
        self.settings = settings
        self.fused = fused_scan(neuron, settings)

    def __call__(
        self, current: Tensor, states: tuple[Tensor, ...], tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The neuron's output and its states after the step, each [N, ...].

        Args:
            current: Its input, [N, ...].
            states: Its states before the step, each [N, ...].
            tensors: What goes into the holes of its settings.
        """
        if current.numel() >= LEAST and self.neuron is not reversible_lif:
            found = self.fused(current.unsqueeze(0), states, tensors, (0,))
            if found is not None and found[0][0] is not None:
                return found[0][0][0], *found[1]
        return self.neuron(current, *states, **dict(fill(self.settings, tensors)))


def neuron_step(graph: fx.Graph, neuron: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """Write one step of a neuron into a graph.

    Args:
        graph: The graph.
        neuron: The neuron's node in the program's step.
        copies: By nodes of the program's step, those of the graph.

    Returns:
        The node that returns what the neuron does.
    """
    tensors: list[fx.Node] = []
    settings: Any = map_arg(tuple(neuron.kwargs.items()), copies.__getitem__)
    step: Any = NeuronStep(neuron.target, split(settings, fx.Node, tensors))  # type: ignore[arg-type]
    current, *states = (copies[operand] for operand in neuron.args)  # type: ignore[index]
    args = (current, tuple(states), tuple(tensors))
    return graph.create_node("call_function", step, args, name=neuron.name)

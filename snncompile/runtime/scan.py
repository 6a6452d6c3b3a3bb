"""Loops over time: one neuron over a sequence of currents, or any part of a step.

Both read one step after the other with `unbind` and hand the states on. A neuron that knows a
better way over a sequence than step by step has it in `OVER_TIME`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from snncompile.ir.neurons import lif, reversible_lif, single_spike
from snncompile.kernels.scan import FusedScan
from snncompile.kernels.settings import Settings, fill
from snncompile.runtime.parallel import lif_over_time
from snncompile.runtime.reversible import reversible_over_time
from snncompile.runtime.sequence import Value, stack, unstack
from snncompile.runtime.single_spike import single_spike_over_time

Neuron: TypeAlias = Callable[..., tuple[Tensor, ...]]
Scanned: TypeAlias = tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]
Step: TypeAlias = Callable[..., tuple[tuple[Value, ...], tuple[Tensor, ...]]]
"""``step(root, *values, *invariants, *states) -> (values, next states)``."""

OverTime: TypeAlias = Callable[..., tuple[Tensor, tuple[Tensor, ...]] | None]
"""``run(current, states, settings) -> (outputs, last states)``; None for settings not covered."""

OVER_TIME: Mapping[Neuron, OverTime] = {
    lif: lif_over_time,
    reversible_lif: reversible_over_time,
    single_spike: single_spike_over_time,
}
"""Neurons that run over a sequence by themselves where nothing reads their states on the way."""


class NeuronScan:
    """A neuron, ready to be run over sequences.

    Args:
        neuron: One of `snncompile.ir.neurons`.
        settings: Its keyword arguments, by name, with holes for tensors (`split`).
    """

    def __init__(self, neuron: Neuron, settings: Settings) -> None:
        self.neuron = neuron
        self.settings = settings
        self.fused = fused_scan(neuron, settings)

    def __call__(
        self,
        current: Tensor,
        states: tuple[Tensor, ...],
        tensors: tuple[Tensor, ...],
        wanted: Collection[int],
    ) -> Scanned:
        """Run by a kernel where there is one, else in the neuron's own way or step by step.

        The reversible neuron's own way goes first, since it takes less memory than a kernel.

        Args:
            current: The neuron's input, [T, N, ...].
            states: Its states before the first step, each [N, ...].
            tensors: What goes into the holes of its settings.
            wanted: Which of its results are kept at every step: 0 is the output, then the states.

        Returns:
            For every result its sequence [T, N, ...], or None where it is not wanted; and the
            states after the last step, each [N, ...].
        """
        if self.neuron is reversible_lif:
            settings = fill(self.settings, tensors)
            found = _own_way(self.neuron, current, states, settings, wanted)
            if found is not None:
                return found
        found = self.fused(current, states, tensors, wanted)
        if found is not None:
            return found
        return scan(self.neuron, current, states, fill(self.settings, tensors), wanted)


def fused_scan(neuron: Neuron, settings: Settings) -> FusedScan:
    """A neuron's kernels; a certificate is for others to fill in."""
    return FusedScan(neuron, tuple(item for item in settings if item[0] != "certificate"))


def scan(
    neuron: Neuron,
    current: Tensor,
    states: tuple[Tensor, ...],
    settings: Settings,
    wanted: Collection[int],
) -> Scanned:
    """What running a neuron over a sequence means: one call a step.

    Args:
        neuron: One of `snncompile.ir.neurons`.
        current: Its input, [T, N, ...].
        states: Its states before the first step, each [N, ...].
        settings: Its keyword arguments, by name.
        wanted: Which of its results are kept at every step: 0 is the output, then the states.

    Returns:
        For every result its sequence [T, N, ...], or None where it is not wanted; and the states
        after the last step, each [N, ...].
    """
    found = _own_way(neuron, current, states, settings, wanted)
    return found or _loop(neuron, current, states, settings, wanted)


def _own_way(
    neuron: Neuron,
    current: Tensor,
    states: tuple[Tensor, ...],
    settings: Settings,
    wanted: Collection[int],
) -> Scanned | None:
    """What the neuron makes of a sequence by itself; None where it knows nothing better."""
    over_time = None if any(wanted) else OVER_TIME.get(neuron)
    done = over_time(current, states, settings) if over_time else None
    return None if done is None else ((done[0], *(None for _ in states)), done[1])


def _loop(
    neuron: Neuron,
    current: Tensor,
    states: tuple[Tensor, ...],
    settings: Settings,
    wanted: Collection[int],
) -> Scanned:
    options = dict(settings)
    kept: list[list[Tensor]] = [[] for _ in range(len(states) + 1)]
    for value in current.unbind(0):
        results = neuron(value, *states, **options)
        states = results[1:]
        for position in wanted:
            kept[position].append(results[position])
    return tuple(torch.stack(values) if values else None for values in kept), states


def loop(  # noqa: PLR0913
    step: Step,
    root: nn.Module,
    steps: int,
    *,
    sequences: tuple[Value, ...],
    invariants: tuple[Value, ...],
    states: tuple[Tensor, ...],
) -> tuple[tuple[Value, ...], tuple[Tensor, ...]]:
    """Run a part of a step once a time step.

    Args:
        step: The part.
        root: Where its modules live.
        steps: The number of steps.
        sequences: What it reads step by step, each [T, N, ...].
        invariants: What it reads at every step.
        states: Its states before the first step, each [N, ...].

    Returns:
        What it writes, each [T, N, ...], and its states after the last step.
    """
    written: list[tuple[Value, ...]] = []
    for values in per_step(sequences, steps):
        results, states = step(root, *values, *invariants, *states)
        written.append(results)
    return tuple(stack(values) for values in zip(*written, strict=True)), states


def per_step(sequences: tuple[Value, ...], steps: int) -> list[tuple[Value, ...]]:
    """For every step, the values of all sequences."""
    columns = [list(unstack(sequence, steps)) for sequence in sequences]
    return [tuple(column[t] for column in columns) for t in range(steps)]

"""Synapses that read spike times: every neuron fires at most once, so its time says it all.

The current of a Linear at step t is its bias and, for every neuron that fires at t, that neuron's
column of the weight. Each column is added once a sample, whatever T is; the dense product
multiplies it with T numbers of which T - 1 are 0. The weight's gradient is such a sum as well.
Where no kernel runs the neurons, no tensor of spikes is written. What grows with T still are the
currents and membranes of the layer behind, and the gradient of the spikes, which the gradient
rules ask for at every step.

The sums have the order of the neurons, that of a dense product is the library's: currents may
differ in rounding, as they do between a product of one step and one of many.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from snncompile.ir.layers import has_hooks
from snncompile.ir.single_spike import single_spike
from snncompile.kernels.scan import FusedScan
from snncompile.kernels.settings import Settings, fill
from snncompile.runtime.events import one_step
from snncompile.runtime.scan import NeuronScan
from snncompile.runtime.single_spike import States, first_spikes, written

LEAST_STEPS = 8
"""Over fewer steps a dense product is as fast."""


def scan_times(
    neuron: NeuronScan,
    current: Tensor,
    states: States,
    tensors: tuple[Tensor, ...],
    dense: bool,
) -> tuple[tuple[Tensor | None, ...], States, Tensor | None]:
    """Run single-spike neurons over a sequence for those that read their spike times.

    Args:
        neuron: Neurons whose definition is `single_spike`.
        current: [T, N, ...].
        states: Before the first step, each [N, ...].
        tensors: What goes into the holes of its settings.
        dense: Whether others read its spikes.

    Returns:
        As the neuron's scan, whose spikes may hold no values where nobody reads them; and the
        times, T where a neuron does not fire; None where the spikes are to be read.
    """
    if len(current) < LEAST_STEPS or torch.is_autocast_enabled(current.device.type):
        return (*neuron(current, states, tensors, (0,)), None)
    if not (dense or torch.is_grad_enabled() or torch.compiler.is_compiling()):
        waited = _first_times(neuron.settings, current, states, tensors)
        if waited is not None:
            return (current.new_zeros(()).expand_as(current), None, None, None), *waited
    fused = neuron.fused(current, states, tensors, (0,))
    if fused is not None and fused[0][0] is not None:
        return (*fused, _times(fused[0][0], states[1], fused[1][1]))
    found = first_spikes(current, states, fill(neuron.settings, tensors), dense=dense)
    if found is None:
        return (*neuron(current, states, tensors, (0,)), None)
    return (found.spikes, None, None, None), found.states, found.times


def _waiting(
    current: Tensor,
    membrane: Tensor,
    fired: Tensor,
    elapsed: Tensor,
    waited: Tensor,
    **settings: Any,  # noqa: ANN401
) -> tuple[Tensor, ...]:
    """A single-spike neuron with a further state: the steps at which it had not fired yet."""
    results = single_spike(current, membrane, fired, elapsed, **settings)
    return *results, waited + (1 - results[2])


def _first_times(
    settings: Settings, current: Tensor, states: States, tensors: tuple[Tensor, ...]
) -> tuple[States, Tensor] | None:
    """The states after the last step, and the spike times; None where there is no kernel.

    The kernel reads the currents and writes nothing of their length. The time of a spike is the
    number of steps before it, which every dtype of a kernel holds.
    """
    started = torch.zeros_like(states[0])
    found = FusedScan(_waiting, settings)(current, (*states, started), tensors, ())
    if found is None:
        return None
    *after, waited = found[1]
    return tuple(after), torch.where(states[1] > 0, len(current), waited.long())


@torch.no_grad()
def _times(spikes: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The steps of spikes [T, N, ...], given who had fired before and after all of them."""
    count = torch.arange(len(spikes), dtype=spikes.dtype, device=spikes.device)
    step = (count @ spikes.flatten(1)).view(after.shape).long()
    return torch.where(after > before, step, len(spikes))


def weighed(layer: nn.Linear, spikes: Tensor, times: Tensor | None) -> Tensor:
    """What a Linear makes of single spikes.

    Args:
        layer: The Linear.
        spikes: [T, N, M].
        times: The step of every neuron's spike, T where there is none, [N, M]; None where the
            spikes are to be read.

    Returns:
        Its output with the steps folded into the batch, [T * N, M'].
    """
    if times is None or has_hooks(layer):
        dense = spikes if times is None else spikes * 0 + written(times, spikes)
        return one_step(layer, dense.flatten(0, 1))
    folded = cast("Tensor", _Weighed.apply(spikes, times, layer.weight))  # type: ignore[no-untyped-call]
    bias = cast("Tensor | None", layer.bias)
    return folded if bias is None else folded + bias


class _Weighed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor, times: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        rows, (batch, _) = len(spikes), times.shape
        ctx.save_for_backward(times, weight)
        ctx.steps = rows
        sample, neuron = (times < rows).nonzero(as_tuple=True)
        row = times[sample, neuron] * batch + sample
        order = row.argsort(stable=True)
        return _sums(weight.t(), neuron[order], row[order], rows * batch)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        *grad_outputs: Tensor,
    ) -> tuple[Tensor | None, None, Tensor | None]:
        times, weight = ctx.saved_tensors
        (gradient,) = grad_outputs
        of_spikes = of_weight = None
        if ctx.needs_input_grad[0]:
            of_spikes = (gradient @ weight).unflatten(0, (ctx.steps, -1))
        if ctx.needs_input_grad[2]:
            neuron, sample = (times < ctx.steps).t().nonzero(as_tuple=True)
            row = times[sample, neuron] * len(times) + sample
            of_weight = _sums(gradient, row, neuron, times.shape[1]).t()
        return of_spikes, None, of_weight


def _sums(values: Tensor, index: Tensor, bag: Tensor, bags: int) -> Tensor:
    """For every bag the sum of the rows of `values` that are in it; `bag` is in order."""
    counts = torch.bincount(bag, minlength=bags)
    offsets = counts.cumsum(0) - counts
    return functional.embedding_bag(index, values.contiguous(), offsets, mode="sum")

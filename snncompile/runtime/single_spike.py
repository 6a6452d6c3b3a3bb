"""The single-spike neuron over a sequence: all membranes, then the first crossings.

Without a reset the membranes are a linear recurrence, which `blocks` runs exactly. Each tile of
steps is asked once which neurons have crossed, and only these are searched for the step. The
backward pass is one reverse sweep of the two sums and the leak that the rule consists of; nothing
of it depends on T but the membranes, and no step has a graph.
"""

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from snncompile.ir.charges import Charge, Number
from snncompile.ir.single_spike import Rule
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime import membranes
from snncompile.runtime.blocks import Recurrence, blocks_for, run
from snncompile.runtime.membranes import EXACT, TENSOR, Charging, Settings

_SEARCHED = 32
"""How many steps are asked at once whether a neuron crosses within them."""

States: TypeAlias = tuple[Tensor, ...]


class _Neuron(NamedTuple):
    """The settings of a single-spike neuron."""

    charge: Charge
    threshold: Number
    surrogate: Surrogate
    rule: Rule = "v2"
    strict: bool = False


class FirstSpikes(NamedTuple):
    """What single-spike neurons did over a sequence.

    Attributes:
        spikes: [T, N, ...]; where they were not asked for, the gradient's way only: no memory.
        times: The step of each neuron's spike, T where there is none, int64 [N, ...].
        states: After the last step, each [N, ...].
    """

    spikes: Tensor
    times: Tensor
    states: States


def single_spike_over_time(
    current: Tensor, states: States, settings: Settings
) -> tuple[Tensor, States] | None:
    """Run `single_spike` over a sequence.

    Args:
        current: [T, N, ...].
        states: Before the first step, each [N, ...].
        settings: The neuron's keyword arguments, by name.

    Returns:
        The spikes, [T, N, ...], and the states after the last step; None for dtypes whose
        bits would not be those of the definition, with a surrogate of the user's, and while
        torch.compile traces.
    """
    found = first_spikes(current, states, settings, dense=True)
    return None if found is None else (found.spikes, found.states)


def first_spikes(
    current: Tensor, states: States, settings: Settings, *, dense: bool
) -> FirstSpikes | None:
    """Run `single_spike` over a sequence, for its spikes or for their times alone.

    Args:
        current: [T, N, ...].
        states: Before the first step, each [N, ...].
        settings: The neuron's keyword arguments, by name.
        dense: Whether the spikes are written out.

    Returns:
        What it did; None as `single_spike_over_time` returns it.
    """
    alike = all(s.dtype == current.dtype and s.shape == current.shape[1:] for s in states)
    written = dict(settings)["surrogate"].function is not None
    if current.dtype not in EXACT or not alike or written or torch.compiler.is_compiling():
        return None
    leaves, spec = membranes.flat(settings)
    results: list[Tensor] = [
        *_SingleSpike.apply(current, *states, (dense, spec), *leaves)  # type: ignore[no-untyped-call]
    ]
    return FirstSpikes(results[0], results[4], (results[1], results[2], results[3]))


class _SingleSpike(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,  # noqa: ANN401
        current: Tensor,
        membrane: Tensor,
        fired: Tensor,
        elapsed: Tensor,
        how: tuple[bool, pytree.TreeSpec],
        *leaves: Any,  # noqa: ANN401
    ) -> tuple[Tensor, ...]:
        dense, spec = how
        neuron = _Neuron(**pytree.tree_unflatten(leaves, spec))
        charged = _membranes(neuron.charge, current, membrane)
        crossed = _first_crossing(charged, neuron)
        before = fired > 0
        times = torch.where(before, len(current), crossed)
        has_fired = (before | (times < len(current))).to(fired.dtype)
        counted = 2 * has_fired - (times == len(current) - 1).to(fired.dtype)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        silent = torch.where(before, 0, times)
        ctx.leaves = [TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        learned = any(ctx.needs_input_grad[5:])
        ctx.save_for_backward(current if learned else None, membrane, charged, silent, *tensors)
        ctx.spec = spec
        ctx.mark_non_differentiable(times)
        spikes = written(times, current) if dense else current.new_zeros(()).expand_as(current)
        return spikes, charged[-1].clone(), has_fired, counted, times

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        *grad_outputs: Tensor,
    ) -> tuple[Any, ...]:
        current, membrane, charged, silent, *tensors = ctx.saved_tensors
        leaves = membranes.restored(ctx.leaves, tensors)
        neuron = _Neuron(**pytree.tree_unflatten(leaves, ctx.spec))
        spikes, last, fired, elapsed, _ = grad_outputs
        if neuron.rule == "v1":
            steps = torch.arange(len(charged), device=charged.device)
            spikes = spikes * (steps.view(-1, *[1] * silent.dim()) < silent)
        slope, gradient = membranes.derivatives(neuron, charged), torch.empty_like(charged)
        state = (last.clone(), fired.clone(), elapsed.clone())
        reverse = _Reverse(membranes.slopes(neuron.charge, membrane)[1])
        run(Recurrence(reverse, (spikes, slope, gradient), backwards=True), state)
        inputs = _Inputs(current, membrane, charged)
        wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[5:])
        of_current, *of_leaves = inputs.gradients((leaves, ctx.spec), (gradient, slope), wanted)
        return of_current, *state, None, *of_leaves


def _membranes(charge: Charge, current: Tensor, membrane: Tensor) -> Tensor:
    """The charged membranes of all steps, [T, N, ...]."""
    charged, charging = torch.empty_like(current), Charging(charge, membrane)
    keep = float(membranes.slopes(charge, membrane)[1].abs().max())

    def step(rows: tuple[Tensor, ...], state: States) -> None:
        charging(rows[0], state[0], rows[1])
        state[0].copy_(rows[1])

    blocks = blocks_for(len(current), membrane, keep)
    run(Recurrence(step, (current, charged)), (membrane.clone(),), blocks)
    return charged


def _first_crossing(charged: Tensor, neuron: _Neuron) -> Tensor:
    """The step at which each membrane first crosses its threshold, T if it never does."""
    steps, flat = len(charged), charged.flatten(1)
    threshold = membranes.number(neuron.threshold, charged)
    if threshold.dim():
        threshold = threshold.expand(charged.shape[1:]).flatten()
    times = torch.full(flat.shape[1:], steps, device=charged.device)
    for start, tile in zip(range(0, steps, _SEARCHED), torch.split(flat, _SEARCHED), strict=True):
        reached = ~(tile.amax(0) < threshold) & (times == steps)
        found = reached.nonzero().squeeze(1)
        limit = threshold[found] if threshold.dim() else threshold
        inside = tile[:, found]
        crossed = inside > limit if neuron.strict else inside >= limit
        ever, step = crossed.max(0)
        times[found] = torch.where(ever, start + step, steps)
    return times.view(charged.shape[1:])


def written(times: Tensor, like: Tensor) -> Tensor:
    """The spikes, [T, N, ...], of neurons that fire at times [N, ...]; T is no spike."""
    spikes = like.new_zeros(len(like) + 1, *times.shape)
    return spikes.scatter_(0, times.unsqueeze(0), 1.0)[: len(like)]


class _Reverse:
    """One step of the rules backwards, through elapsed, fired and the membrane.

    Args:
        keep: The derivative of a charged membrane by the one before.
    """

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep

    def __call__(self, rows: tuple[Tensor, ...], state: States) -> None:
        """Write the gradients with respect to the crossing's distance and the charged membrane.

        Args:
            rows: The gradient of the spikes; the slope, to become the distance's gradient; and
                where the charged membrane's is written; each [N, ...].
            state: The gradients of membrane, fired and elapsed after the step, then before it.
        """
        spikes, distance, charged = rows
        membrane, fired, elapsed = state
        elapsed.add_(spikes)
        fired.add_(elapsed)
        distance.mul_(fired)
        torch.add(membrane, distance, out=charged)
        torch.mul(charged, self.keep, out=membrane)


class _Inputs(NamedTuple):
    """What charged the membranes.

    Attributes:
        current: [T, N, ...]; None where no setting is learned.
        initial: The membranes before the first step, [N, ...].
        charged: Those of every step, [T, N, ...].
    """

    current: Tensor | None
    initial: Tensor
    charged: Tensor

    def gradients(
        self,
        settings: tuple[list[Any], pytree.TreeSpec],
        reached: tuple[Tensor, Tensor],
        wanted: tuple[bool, ...],
    ) -> list[Tensor | None]:
        """The gradients of the current and of every setting, None where not wanted.

        Args:
            settings: The neuron's, as leaves and their structure.
            reached: The gradients of the charged membranes and of their distance from the
                threshold, each [T, N, ...].
            wanted: For the current and every setting, whether it has one.
        """
        leaves, spec = settings
        if self.current is None:
            charge = _Neuron(**pytree.tree_unflatten(leaves, spec)).charge
            return [membranes.scaled(reached[0], charge), *(None for _ in leaves)]
        given = zip((self.current, *leaves), wanted, strict=True)
        before = torch.cat((self.initial.unsqueeze(0), self.charged[:-1]))
        with torch.enable_grad():
            fresh = [value.detach().requires_grad_() if want else value for value, want in given]
            neuron = _Neuron(**pytree.tree_unflatten(fresh[1:], spec))
            made = [neuron.charge(fresh[0], before)]
            if isinstance(neuron.threshold, Tensor) and neuron.threshold.requires_grad:
                made.append((-neuron.threshold).expand_as(before))
            inputs = [value for value, want in zip(fresh, wanted, strict=True) if want]
            found = iter(torch.autograd.grad(made, inputs, reached[: len(made)]))
        return [next(found) if want else None for want in wanted]

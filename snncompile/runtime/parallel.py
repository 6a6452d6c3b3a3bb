"""Integrate-and-fire neurons over a sequence, the steps of many blocks of time side by side.

The spikes of all steps are the one fixed point of a sweep over all steps at once, and a sweep that
changes nothing certifies them (as in Feng et al., 2025, arXiv:2506.12087, whose sweep is
S <- H(L(I - theta S) + theta S - theta) with the leak L). Such a sweep must round as the neuron
itself does, or the spikes it certifies are those of a neighbour. So the unknowns here are the
membranes at the seams between blocks, and a sweep is the neuron's own step, in its own order of
operations, in all blocks at once: see `snncompile.runtime.blocks`. It works for every reset.

Whether sweeps pay depends on the width of the layer and on how fast its membranes forget; both
ways are measured once for each kind of call, and the faster one stays. Their results are the same.
The gradient is that of the neuron's definition, by one reverse loop without a graph.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from snncompile.ir.certificates import Certificate
from snncompile.ir.charges import Charge, Number
from snncompile.ir.neurons import lif
from snncompile.ir.resets import Hard, Reset, Subtract
from snncompile.ir.surrogates import Surrogate, fire
from snncompile.runtime import membranes
from snncompile.runtime.blocks import Recurrence, State, blocks_for, run
from snncompile.runtime.membranes import EXACT, TENSOR, Charging, Settings

_TRIALS = 2
"""How often each way is tried before the faster one is chosen."""


class _Neuron(NamedTuple):
    """The settings of an integrate-and-fire neuron."""

    charge: Charge
    threshold: Number
    reset: Reset
    surrogate: Surrogate
    strict: bool = False
    detach_membrane: bool = False


def lif_over_time(
    current: Tensor, states: State, settings: Settings
) -> tuple[Tensor, State] | None:
    """Run `lif` over a sequence, if it carries a certificate.

    Args:
        current: [T, N, ...].
        states: The membrane before the first step, [N, ...].
        settings: The neuron's keyword arguments, by name.

    Returns:
        The spikes, [T, N, ...], and the membrane after the last step; None without a certificate,
        for dtypes whose bits would not be those of the definition, and while torch.compile traces.
    """
    options = dict(settings)
    certificate = options.pop("certificate", None)
    membrane = states[0]
    alike = membrane.dtype == current.dtype and membrane.shape == current.shape[1:]
    if certificate is None or not alike or current.dtype not in EXACT:
        return None
    if torch.compiler.is_compiling():
        return None
    leaves, spec = membranes.flat(tuple(options.items()))
    how = (spec, certificate)
    results: list[Tensor] = [*_Lif.apply(current, membrane, how, *leaves)]  # type: ignore[no-untyped-call]
    return results[0], (results[1],)


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        current: Tensor,
        membrane: Tensor,
        how: tuple[pytree.TreeSpec, Certificate],
        *leaves: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        ctx.spec, ctx.certificate = how
        neuron = _Neuron(**pytree.tree_unflatten(leaves, ctx.spec))
        charged, spikes, last = (
            torch.empty_like(current),
            torch.empty_like(current),
            membrane.clone(),
        )
        keep = membranes.slopes(neuron.charge, membrane)[1]
        steps = Recurrence(_forward(neuron, membrane), (current, charged, spikes))
        _run(steps, last, keep, ctx.certificate)
        kept = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        ctx.leaves = [TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        given = (current, membrane) if any(ctx.needs_input_grad[3:]) else (None, None)
        ctx.save_for_backward(*given, charged, spikes, keep, *kept)
        return spikes, last

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        *grad_outputs: Tensor,
    ) -> tuple[Any, ...]:
        current, membrane, charged, spikes, keep, *kept = ctx.saved_tensors
        leaves = membranes.restored(ctx.leaves, kept)
        neuron = _Neuron(**pytree.tree_unflatten(leaves, ctx.spec))
        keep = torch.zeros_like(keep) if neuron.detach_membrane else keep
        slope = membranes.derivatives(neuron, charged)
        gradient, state = torch.empty_like(charged), grad_outputs[1].clone()
        rows = (grad_outputs[0], slope, charged, spikes, gradient)
        steps = Recurrence(_backward(neuron, charged, keep), rows, backwards=True)
        _run(steps, state, keep, ctx.certificate)
        if current is None:
            of_current = membranes.scaled(gradient, neuron.charge)
            return of_current, state, None, *(None for _ in leaves)
        given = (current, _before(neuron, membrane, charged, spikes))
        after = torch.cat((gradient[1:] * keep, grad_outputs[1].unsqueeze(0)))
        wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        found = _of_settings((leaves, ctx.spec), given, (grad_outputs[0], after), wanted)
        return found[0], state, None, *found[1:]


Step = Callable[[tuple[Tensor, ...], State], None]


def _forward(neuron: _Neuron, like: Tensor) -> Step:
    """One step, from rows of currents to rows of charged membranes and of spikes."""
    charging, resets = Charging(neuron.charge, like), _resetting(neuron, like)
    threshold = membranes.number(neuron.threshold, like)
    crossed = torch.gt if neuron.strict else torch.ge
    written = neuron.surrogate.function is not None

    def step(rows: tuple[Tensor, ...], state: State) -> None:
        current, charged, spikes = rows
        charging(current, state[0], charged)
        if written:
            spikes.copy_(fire(charged - threshold, neuron.surrogate, strict=neuron.strict))
        else:
            crossed(charged, threshold, out=spikes)
        resets(charged, spikes, state[0])

    return step


def _resetting(neuron: _Neuron, like: Tensor) -> Callable[[Tensor, Tensor, Tensor], None]:
    """Writes what a reset leaves of charged membranes: the values that the reset gives."""
    threshold, one = membranes.number(neuron.threshold, like), like.new_ones(())

    def subtract(charged: Tensor, spikes: Tensor, out: Tensor) -> None:
        torch.mul(spikes, threshold, out=out)
        torch.sub(charged, out, out=out)

    def take(charged: Tensor, spikes: Tensor, out: Tensor) -> None:
        torch.sub(charged, spikes, out=out)

    def clear(charged: Tensor, spikes: Tensor, out: Tensor) -> None:
        torch.sub(one, spikes, out=out)
        out.mul_(charged)

    def general(charged: Tensor, spikes: Tensor, out: Tensor) -> None:
        out.copy_(neuron.reset(charged, spikes, neuron.threshold))

    match neuron.reset:
        case Subtract():
            unit = not isinstance(neuron.threshold, Tensor) and neuron.threshold == 1
            return take if unit else subtract
        case Hard(value) if not isinstance(value, Tensor) and value == 0:
            return clear
        case _:
            return general


def _backward(neuron: _Neuron, like: Tensor, keep: Tensor) -> Step:
    """One step back, to rows of the gradients of charged membranes, in autograd's own order."""
    threshold, reset = membranes.number(neuron.threshold, like), neuron.reset
    one = like.new_ones(())

    def subtract(rows: tuple[Tensor, ...], after: Tensor) -> None:
        spikes, slope, _, _, out = rows
        torch.mul(after, threshold, out=out)
        torch.sub(spikes, out, out=out)
        out.mul_(slope).add_(after)

    def clear(rows: tuple[Tensor, ...], after: Tensor) -> None:
        spikes, slope, charged, fired, out = rows
        assert isinstance(reset, Hard)
        through = spikes if reset.detach else spikes + after * reset.value - after * charged
        torch.mul(through, slope, out=out)
        out.add_((one - fired).mul_(after))

    def leave(rows: tuple[Tensor, ...], after: Tensor) -> None:
        spikes, slope, _, _, out = rows
        torch.mul(spikes, slope, out=out)
        out.add_(after)

    soft = isinstance(reset, Subtract) and not reset.detach
    back = subtract if soft else clear if isinstance(reset, Hard) else leave

    def step(rows: tuple[Tensor, ...], state: State) -> None:
        back(rows, state[0])
        torch.mul(rows[-1], keep, out=state[0])

    return step


def _run(steps: Recurrence, state: Tensor, keep: Tensor, certificate: Certificate) -> None:
    """Run all steps in the way that is fastest for this kind of call; `state` ends as the last."""
    length = len(steps.sequences[0])
    key = (steps.backwards, length, state.shape, state.dtype, state.device)
    if key not in certificate.ways:
        blocks = blocks_for(length, state, float(keep.abs().max()))
        ways = (1,) if blocks == 1 else (blocks, 1)
        certificate.ways[key] = _fastest(steps, state, ways) if len(ways) > 1 else 1
    done = run(steps, (state,), certificate.ways[key])
    if not steps.backwards:
        certificate.blocks, certificate.sweeps = done


def _fastest(steps: Recurrence, state: Tensor, ways: tuple[int, ...]) -> int:
    taken = dict.fromkeys(ways, float("inf"))
    for _ in range(_TRIALS):
        for blocks in ways:
            begun = _now(state.device)
            run(steps, (state.clone(),), blocks)
            taken[blocks] = min(taken[blocks], _now(state.device) - begun)
    return min(ways, key=taken.__getitem__)


def _now(device: torch.device) -> float:
    """Seconds, after what a device was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _before(neuron: _Neuron, membrane: Tensor, charged: Tensor, spikes: Tensor) -> Tensor:
    """The membranes before every step, [T, N, ...]."""
    after = neuron.reset(charged[:-1], spikes[:-1], neuron.threshold)
    return torch.cat((membrane.unsqueeze(0), after))


def _of_settings(
    settings: tuple[list[Any], pytree.TreeSpec],
    given: tuple[Tensor, Tensor],
    gradients: tuple[Tensor, Tensor],
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of the current and of every setting, of all steps at once; None if not wanted.

    Args:
        settings: The neuron's, as leaves and their structure.
        given: Currents and the membranes before every step, [T, N, ...].
        gradients: Of the spikes, and of the membranes after every step, [T, N, ...].
        wanted: For the current and every setting, whether it has one.
    """
    leaves, spec = settings
    with torch.enable_grad():
        pairs = zip((given[0], *leaves), wanted, strict=True)
        fresh = [value.detach().requires_grad_() if want else value for value, want in pairs]
        made = lif(fresh[0], given[1], **pytree.tree_unflatten(fresh[1:], spec))
        inputs = [value for value, want in zip(fresh, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(made, inputs, gradients))
    return [next(found) if want else None for want in wanted]

"""The reversible neuron over a sequence, with a backward pass that runs the neuron backwards.

Between the passes it keeps its outputs, which the next synapse keeps anyway, and the membranes
after the last step, in 16 bits where these hold them. The backward pass recovers the currents and
membranes of every step from those after it, and takes the gradients in the same sweep out of the
same values: no step is computed a third time, and there is no graph.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from snncompile.errors import InputError
from snncompile.ir.grids import Grid, on_grid
from snncompile.ir.reversible import Branch, Coupling, Pair, halves, slopes
from snncompile.kernels.tracing import untraced
from snncompile.runtime.half import run_half
from snncompile.runtime.reversible_kernels import back_by_kernel, forward_by_kernel

Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""A neuron's keyword arguments."""

_INT16 = 2**15


def reversible_over_time(
    current: Tensor, states: tuple[Tensor, ...], settings: Settings
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Run `reversible_lif` over a sequence.

    Args:
        current: [T, N, C, ...].
        states: The membrane before the first step, [N, C, ...].
        settings: The neuron's keyword arguments, by name.

    Returns:
        The outputs, [T, N, C, ...], and the membrane after the last step; None where a setting is
        a tensor: it may be learned, and the sweep has no gradient for it.

    Raises:
        InputError: A gradient is wanted, and the sums may have left the range that floating
            point holds exactly on the grid.
    """
    coupling = coupling_of(settings)
    if coupling is None:
        return None
    dtype = torch.promote_types(current.dtype, states[0].dtype)
    output, after = _untraced(current.to(dtype), states[0].to(dtype), coupling)
    return output, (after,)


def coupling_of(settings: Settings) -> Coupling | None:
    """A neuron's settings, by name; None where one is a tensor."""
    options = dict(settings)
    if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(options)):
        return None
    branch = Branch(**{name: options[name] for name in Branch._fields if name in options})
    alpha, beta = options.get("alpha", 1.0), options.get("beta", 1.0)
    return Coupling(branch, alpha, beta, options.get("anchors"))


class Streamlined(torch.autograd.Function):
    """``apply(current [T, N, C, ...], membrane [N, C, ...], coupling)``: outputs, last membrane."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, membrane: Tensor, coupling: Coupling) -> Pair:  # noqa: ANN401
        """Outputs and last membrane; keeps the two, and the anchors, for the sweep."""
        found = forward_by_kernel(current, membrane, coupling)
        output, after, kept = found or _forward(current, membrane, coupling)
        if any(ctx.needs_input_grad):
            _require_exact(output, after, coupling.branch.grid)
            ctx.coupling = coupling
            ctx.save_for_backward(output, _packed(after, coupling.branch.grid), *kept)
        return output, after

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        *grad_outputs: Tensor,
    ) -> tuple[Tensor, Tensor, None]:
        """The gradients by currents and first membrane, in one sweep with the inverse."""
        output, packed, *kept = ctx.saved_tensors
        coupling: Coupling = ctx.coupling
        membrane = unpacked(packed, output.dtype, coupling.branch.grid)
        sequences, states = (output, grad_outputs[0]), (membrane, grad_outputs[1])
        found = back_by_kernel(sequences, states, coupling, kept)
        gradient, first = found or _back(sequences, states, coupling, list(kept))
        return gradient, first, None


def _apply(current: Tensor, membrane: Tensor, coupling: Coupling) -> Pair:
    return Streamlined.apply(current, membrane, coupling)  # type: ignore[no-untyped-call, no-any-return]


_untraced = untraced(_apply)
"""Left alone by torch.compile: what is refused and what is packed depends on values."""


def _forward(
    current: Tensor, membrane: Tensor, coupling: Coupling
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The outputs, the last membrane and the anchors: the membranes before every K-th step."""
    branch, alpha, beta, anchors = coupling
    output, kept = torch.empty_like(current), list[Tensor]()
    held, other = halves(membrane)
    for t, value in enumerate(current.unbind(0)):
        if t and anchors and t % anchors == 0:
            kept.append(torch.cat((held, other), 1))
        first, second = halves(value if branch.grid is None else on_grid(value, branch.grid.bits))
        out, out_second = halves(output[t])
        half = run_half(branch, first, held)
        torch.add(half.spikes, _scaled(second, beta), out=out)
        after = half.kept + _scaled(other, alpha)
        half = run_half(branch, out, after)
        torch.add(half.spikes, _scaled(first, beta), out=out_second)
        held, other = after, half.kept + _scaled(held, alpha)
    return output, torch.cat((held, other), 1), kept


def _back(sequences: Pair, states: Pair, coupling: Coupling, anchors: list[Tensor]) -> Pair:
    """The gradients by currents and first membrane, from outputs and last membranes and theirs."""
    sweep = _Sweep(coupling, halves(states[0]), halves(states[1]))
    gradient = torch.empty_like(sequences[0])
    for t in reversed(range(len(gradient))):
        sweep.back(sequences[0][t], sequences[1][t], gradient[t])
        if anchors and coupling.anchors and t % coupling.anchors == 0:
            sweep.membranes = halves(anchors.pop())
    return gradient, torch.cat(sweep.gradients, 1)


class _Sweep:
    """Runs steps backwards, and gradients with them.

    Attributes:
        membranes: Of both halves, before the step that was run back last.
        gradients: Of the loss with respect to these.
    """

    def __init__(self, coupling: Coupling, membranes: Pair, gradients: Pair) -> None:
        self.branch, self.alpha, self.beta, _ = coupling
        self.gain, self.keep = slopes(self.branch.charge)
        self.membranes = membranes
        self.gradients = gradients

    def back(self, output: Tensor, given: Tensor, gradient: Tensor) -> None:
        """Run one step back.

        Args:
            output: What the step returned, [N, C, ...].
            given: The gradient with respect to it.
            gradient: Where the gradient with respect to the current is written.
        """
        (out, out_second), (given_first, given_second) = halves(output), halves(given)
        (after, after_second), (from_first, from_second) = self.membranes, self.gradients
        into_first, into_second = halves(gradient)

        second = run_half(self.branch, out, after)
        current = _divided(out_second - second.spikes, self.beta)
        held = _divided(after_second - second.kept, self.alpha)
        charged = second.gradient(given_second, from_second)
        of_out = torch.add(given_first, charged, alpha=self.gain)
        of_after = torch.add(from_first, charged, alpha=self.keep)

        first = run_half(self.branch, current, held)
        self.membranes = held, _divided(after - first.kept, self.alpha)
        charged = first.gradient(of_out, of_after)
        torch.add(_scaled(given_second, self.beta), charged, alpha=self.gain, out=into_first)
        into_second.copy_(_scaled(of_out, self.beta))
        of_held = torch.add(_scaled(from_second, self.alpha), charged, alpha=self.keep)
        self.gradients = of_held, _scaled(of_after, self.alpha)


def _scaled(value: Tensor, factor: float) -> Tensor:
    return value if factor == 1 else factor * value


def _divided(value: Tensor, factor: float) -> Tensor:
    return value if factor == 1 else value / factor


def _require_exact(output: Tensor, membrane: Tensor, grid: Grid | None) -> None:
    """Refuse what the grid does not hold exactly.

    A step changes a membrane's magnitude by at most the grid's limit, so that the last membranes
    bound all those before.

    Raises:
        InputError: Outputs or membranes may have left the range.
    """
    if grid is None:
        return
    largest = 2.0**-grid.bits / torch.finfo(output.dtype).eps
    low, high = torch.aminmax(output)
    reached = max(-low, high), membrane.abs().amax() + grid.limit * len(output)
    for what, value in zip(("outputs", "membranes"), reached, strict=True):
        if not value <= largest:
            raise InputError(
                f"reversible_lif: {what} of up to {float(value):g} over {len(output)} steps are "
                f"beyond {largest:g}, up to which {output.dtype} holds multiples of 2^-{grid.bits} "
                "exactly; take fewer bits or float64, or scale the currents down"
            )


def _packed(membrane: Tensor, grid: Grid | None) -> Tensor:
    """Membranes on a grid as 16-bit integers, if they fit."""
    if grid is None:
        return membrane
    scaled = membrane * 2.0**grid.bits
    return scaled.to(torch.int16) if scaled.abs().amax() < _INT16 else membrane


def unpacked(packed: Tensor, dtype: torch.dtype, grid: Grid | None) -> Tensor:
    """The membranes that `_packed` packed."""
    if grid is None or packed.dtype != torch.int16:
        return packed
    return packed.to(dtype) * 2.0**-grid.bits

"""The reversible neuron's step and its step back as compiled scans, from the neuron's definition.

The step back finds current and membrane by the inverse, and their gradients by autograd of the step
itself, traced together: the compiler computes what the two have in common once.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from snncompile.ir.grids import on_grid
from snncompile.ir.reversible import Coupling, Pair, reverse_of_halves, step_of_halves
from snncompile.kernels.paired import Form, PairedScan, paired_scan
from snncompile.kernels.settings import identity


def forward_by_kernel(
    current: Tensor, membrane: Tensor, coupling: Coupling
) -> tuple[Tensor, Tensor, list[Tensor]] | None:
    """Outputs, last membrane and anchors, the membranes before every K-th step.

    Args:
        current: [T, N, C, ...].
        membrane: Before the first step, [N, C, ...].
        coupling: The neuron's settings.

    Returns:
        None if there is no kernel for this.
    """
    scan = _scan(current, coupling, "forward")
    if scan is None:
        return None
    held, outputs, kept = _own(membrane), list[Tensor](), list[Tensor]()
    for part in _between_anchors(current, coupling):
        if outputs:
            kept.append(held.clone())
        outputs += scan((part,), (held,))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), held, kept


def back_by_kernel(
    sequences: Pair, states: Pair, coupling: Coupling, anchors: Sequence[Tensor]
) -> Pair | None:
    """The gradients by currents and first membrane.

    Args:
        sequences: Outputs and the gradients with respect to them, each [T, N, C, ...].
        states: The last membrane and the gradient with respect to it, each [N, C, ...].
        coupling: The neuron's settings.
        anchors: What `forward_by_kernel` kept.

    Returns:
        None if there is no kernel for this.
    """
    scan = _scan(sequences[0], coupling, "back")
    if scan is None:
        return None
    held, gradient = (_own(state) for state in states)
    parts = zip(*(_between_anchors(sequence, coupling) for sequence in sequences), strict=True)
    found: list[Tensor] = []
    for part, before in zip(reversed(list(parts)), [None, *reversed(anchors)], strict=True):
        found += scan(part, (held if before is None else _own(before), gradient))
    return found[0] if len(found) == 1 else torch.cat(found[::-1]), gradient


def _own(state: Tensor) -> Tensor:
    """A state that a scan may change."""
    return state.clone(memory_format=torch.contiguous_format)


def _between_anchors(sequence: Tensor, coupling: Coupling) -> Sequence[Tensor]:
    """The sequence in parts at whose borders membranes are kept."""
    length = coupling.anchors or len(sequence)
    return [sequence[begin : begin + length] for begin in range(0, len(sequence), length)]


Way = Literal["forward", "back"]


def _scan(sequence: Tensor, coupling: Coupling, way: Way) -> PairedScan | None:
    """The scan of a neuron one way through time, for plain tensors on the CPU."""
    if sequence.device.type != "cpu" or not len(sequence):
        return None
    return _compiled(_Same(coupling), sequence.dtype, way)


class _Same:
    """A neuron's settings, equal to those that are the same to the last bit."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.identity = identity(tuple(coupling))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


@cache
def _compiled(settings: _Same, dtype: torch.dtype, way: Way) -> PairedScan | None:
    coupling = settings.coupling
    if way == "forward":
        return paired_scan(Form(partial(_step, coupling), 1, 1, 1, False, 1), dtype)
    return paired_scan(Form(partial(_step_back, coupling), 2, 2, 1, True, 1), dtype)


def _step(coupling: Coupling, *given: Tensor) -> tuple[Tensor, ...]:
    """Halves of current and membrane; halves of the output and of the next membrane."""
    branch, alpha, beta, _ = coupling
    first, second = (on_grid(x, branch.grid.bits) if branch.grid else x for x in given[:2])
    held, other = given[2:]
    output, after = step_of_halves((first, second), (held, other), branch, alpha=alpha, beta=beta)
    return *output, *after


def _step_back(coupling: Coupling, *given: Tensor) -> tuple[Tensor, ...]:
    """Halves of output, its gradient, membrane and its gradient; those of one step before.

    Returns:
        The halves of the current's gradient, of the membrane before the step, of its gradient.
    """
    branch, alpha, beta, _ = coupling
    out, out_second, *_ = given
    after, after_second = given[4:6]
    current, membrane = reverse_of_halves(
        (out, out_second), (after, after_second), branch, alpha=alpha, beta=beta
    )
    leaves = [value.detach().requires_grad_() for value in (*current, *membrane)]
    pairs = (leaves[0], leaves[1]), (leaves[2], leaves[3])
    output, following = step_of_halves(*pairs, branch, alpha=alpha, beta=beta)
    flowing = (*given[2:4], *given[6:8])
    found = torch.autograd.grad(
        (*output, *following), leaves, flowing, allow_unused=True, materialize_grads=True
    )
    return *found[:2], *membrane, *found[2:]

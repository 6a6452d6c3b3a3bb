"""A neuron that can be run backwards: two halves of the channels, each driving the other.

With F for the step of an ordinary integrate-and-fire neuron, from a current and a membrane to
spikes S and the membrane K that its reset leaves, one step is, in this order,

    S1, K1 = F(X1, V1)        Y1 = S1 + beta X2        V1' = K1 + alpha V2
    S2, K2 = F(Y1, V1')       Y2 = S2 + beta X1        V2' = K2 + alpha V1

and one step back solves the second line for X1 and V1, then the first for X2 and V2. The output
Y is not binary. Lei et al., 2023, arXiv:2308.08649 describe such a neuron; these equations are a
reconstruction, as its own were not at hand: the additive coupling in the order that has an
inverse.

With alpha = beta = 1 and a `Grid` for K, every sum is exact, and so is the inverse. The grid also
bounds K: without a bound, membranes that do not fire grow exponentially (by 1.62 a step for a
membrane that keeps half of itself), and gradients with them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from snncompile.ir.charges import Charge, Number
from snncompile.ir.grids import Grid, on_grid
from snncompile.ir.resets import Reset
from snncompile.ir.surrogates import Surrogate, fire

Pair = tuple[Tensor, Tensor]


class Branch(NamedTuple):
    """F: the step of an integrate-and-fire neuron, its membrane put on a grid if there is one."""

    charge: Charge
    threshold: Number
    reset: Reset
    surrogate: Surrogate
    strict: bool = False
    grid: Grid | None = None

    def __call__(self, current: Tensor, membrane: Tensor) -> Pair:
        """Spikes and the membrane that the reset leaves, each [N, C/2, ...]."""
        charged = self.charge(current, membrane)
        spikes = fire(charged - self.threshold, self.surrogate, strict=self.strict)
        kept = self.reset(charged, spikes, self.threshold)
        return spikes, kept if self.grid is None else self.grid(kept)


class Coupling(NamedTuple):
    """The settings of a reversible neuron.

    Attributes:
        branch: The step of an ordinary neuron, which both halves run.
        alpha: The share of the other half's membrane.
        beta: The share of the other half's current.
        anchors: Every how many steps the membranes are kept; None keeps the last alone.
    """

    branch: Branch
    alpha: float
    beta: float
    anchors: int | None


def halves(value: Tensor) -> Pair:
    """The first and the second half of the channels, dimension 1, as views."""
    half = value.shape[1] // 2
    return value[:, :half], value[:, half:]


def reversible_lif(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    reset: Reset,
    surrogate: Surrogate,
    strict: bool = False,
    alpha: float = 1.0,
    beta: float = 1.0,
    grid: Grid | None = None,
    anchors: int | None = None,
) -> Pair:
    """Two coupled halves of the channels, with an inverse; see the module's docstring.

    Args:
        current: Input current, [N, C, ...] with an even C; put on the grid if there is one.
        membrane: Membrane after the last step, [N, C, ...]; on the grid if there is one.
        charge: How current and leak move a membrane.
        threshold: Firing threshold.
        reset: What a spike does to the membrane.
        surrogate: The derivative that replaces the step's.
        strict: Fire above the threshold only; otherwise at it too.
        alpha: The share of the other half's membrane that is added, not 0.
        beta: The share of the other half's current that is added, not 0.
        grid: Where the membrane that the reset leaves is rounded to and saturates.
        anchors: Every how many steps a run over a sequence keeps the membranes, from which it
            starts anew when it goes backwards; None keeps the last alone. No value depends on it.

    Returns:
        Real-valued output and the membrane after the step, each [N, C, ...].
    """
    branch = Branch(charge, threshold, reset, surrogate, strict, grid)
    values = halves(current if grid is None else on_grid(current, grid.bits)), halves(membrane)
    output, after = step_of_halves(*values, branch, alpha=alpha, beta=beta)
    return torch.cat(output, 1), torch.cat(after, 1)


def step_of_halves(
    current: Pair, membrane: Pair, branch: Branch, *, alpha: float, beta: float
) -> tuple[Pair, Pair]:
    """One step of `reversible_lif`, half by half, from a current that is on the grid.

    Args:
        current: Of both halves, each [N, C/2, ...].
        membrane: After the last step, likewise.
        branch: The neuron's own step.
        alpha: As in `reversible_lif`.
        beta: As in `reversible_lif`.

    Returns:
        The output and the membrane after the step, of both halves.
    """
    (first, second), (held, other) = current, membrane
    spikes, kept = branch(first, held)
    out, after = spikes + beta * second, kept + alpha * other
    spikes, kept = branch(out, after)
    return (out, spikes + beta * first), (after, kept + alpha * held)


def reverse_of_halves(
    output: Pair, membrane: Pair, branch: Branch, *, alpha: float, beta: float
) -> tuple[Pair, Pair]:
    """The inverse of `step_of_halves`: the current and the membrane before the step."""
    (out, out_second), (after, after_second) = output, membrane
    spikes, kept = branch(out, after)
    first, held = (out_second - spikes) / beta, (after_second - kept) / alpha
    spikes, kept = branch(first, held)
    return (first, (out - spikes) / beta), (held, (after - kept) / alpha)


def reverse(
    output: Tensor, membrane: Tensor, branch: Branch, *, alpha: float = 1.0, beta: float = 1.0
) -> Pair:
    """One step of `reversible_lif` backwards.

    Args:
        output: What the step returned, [N, C, ...].
        membrane: The membrane after the step, [N, C, ...].
        branch: The neuron's own step.
        alpha: As in the step.
        beta: As in the step.

    Returns:
        The current, as it was on the grid, and the membrane before the step, each [N, C, ...].
    """
    values = halves(output), halves(membrane)
    current, before = reverse_of_halves(*values, branch, alpha=alpha, beta=beta)
    return torch.cat(current, 1), torch.cat(before, 1)


def slopes(charge: Charge) -> tuple[float, float]:
    """The derivatives of a charged membrane by current and by membrane; a charge is affine."""
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    rest = charge(zero, zero)
    return float(charge(one, zero) - rest), float(charge(zero, one) - rest)


def error_growth(charge: Charge, alpha: float) -> float:
    """By how much at most a rounding error in the membranes grows in one step backwards.

    Holds while no spike changes: then the error of the two halves is multiplied by at most the
    matrix ((k, 1), (1 + k^2 / alpha, k / alpha)) / alpha, where k is the share of itself that a
    membrane keeps; this is that matrix's largest eigenvalue.
    """
    keep = abs(slopes(charge)[1])
    trace = keep / alpha + keep / alpha**2
    determinant = -1 / alpha**2
    return trace / 2 + math.sqrt(trace**2 / 4 - determinant)

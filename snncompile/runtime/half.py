"""One half of a reversible step, run for its values and for its derivatives in closed form.

It computes what `snncompile.ir.reversible.Branch` says, in fewer operations: where spikes are 0
or 1, a reset is one of them, and products with spikes are exact, so that the bits are the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snncompile.ir.resets import Hard, Keep, Subtract
from snncompile.ir.reversible import Branch
from snncompile.ir.surrogates import DERIVATIVES, Surrogate, fire


@dataclass(frozen=True)
class Half:
    """What one half did in one step; every tensor is [N, C/2, ...].

    Attributes:
        branch: The step that it ran.
        charged: The membrane before the reset.
        distance: That minus the threshold.
        spikes: What it fired.
        rounded: The membrane after the reset, on the grid but not limited.
        kept: The same within the grid's limits.
    """

    branch: Branch
    charged: Tensor
    distance: Tensor
    spikes: Tensor
    rounded: Tensor
    kept: Tensor

    def gradient(self, of_spikes: Tensor, of_kept: Tensor) -> Tensor:
        """The gradient with respect to the charged membrane.

        Args:
            of_spikes: The gradient with respect to the spikes.
            of_kept: The gradient with respect to the membrane that is kept.
        """
        if self.branch.grid is not None:
            of_kept = of_kept * (self.rounded == self.kept)
        passed = of_kept
        match self.branch.reset:
            case Subtract(detach):
                if not detach:
                    of_spikes = of_spikes - of_kept * self.branch.threshold
            case Hard(value, detach):
                passed = torch.addcmul(of_kept, of_kept, self.spikes, value=-1)
                if not detach:
                    of_spikes = torch.addcmul(of_spikes, of_kept, self.charged, value=-1)
                    of_spikes = of_spikes + of_kept * value if value else of_spikes
            case Keep():
                pass
        return torch.addcmul(passed, of_spikes, derivative(self.branch.surrogate, self.distance))


def run_half(branch: Branch, current: Tensor, membrane: Tensor) -> Half:
    """Run one half.

    Args:
        branch: The step.
        current: [N, C/2, ...].
        membrane: Before the step, [N, C/2, ...].
    """
    charged = branch.charge(current, membrane)
    distance = charged - branch.threshold
    spikes = fire(distance, branch.surrogate, strict=branch.strict)
    kept = rounded = _left(branch, charged, spikes)
    if branch.grid is not None:
        scale = 2.0**branch.grid.bits
        rounded = (rounded * scale).round_().mul_(1 / scale)
        kept = torch.clamp(rounded, -branch.grid.limit, branch.grid.limit)
    return Half(branch, charged, distance, spikes, rounded, kept)


def _left(branch: Branch, charged: Tensor, spikes: Tensor) -> Tensor:
    """What the reset leaves of the membrane."""
    if branch.surrogate.function is not None:  # it may emit more than 0 and 1
        return branch.reset(charged, spikes, branch.threshold)
    match branch.reset:
        case Subtract():
            return torch.sub(charged, spikes, alpha=branch.threshold)  # type: ignore[arg-type]
        case Hard(value):
            left = torch.addcmul(charged, charged, spikes, value=-1)
            return left + spikes * value if value else left
        case Keep():
            return charged


def derivative(surrogate: Surrogate, distance: Tensor) -> Tensor:
    """What stands for the step's derivative at a distance from the threshold, any shape."""
    if surrogate.function is None:
        return DERIVATIVES[surrogate.name](distance, *surrogate.parameters)
    with torch.enable_grad():
        leaf = distance.detach().requires_grad_()
        spikes = fire(leaf, surrogate, strict=False)
        found: Any = torch.autograd.grad(spikes, leaf, torch.ones_like(spikes))
    return found[0]  # type: ignore[no-any-return]

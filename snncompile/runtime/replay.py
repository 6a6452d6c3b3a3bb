"""One half of a reversible step run a second time, with its derivatives in closed form.

What the first run computed is computed again by the same operations, so it has the same bits; the
reset is written shorter where that gives the same bits too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snncompile.ir.grids import on_grid
from snncompile.ir.resets import Hard, Keep, Subtract
from snncompile.ir.reversible import Branch
from snncompile.ir.surrogates import DERIVATIVES, Surrogate, fire


@dataclass(frozen=True)
class Replay:
    """What one half did in one step.

    Attributes:
        branch: The step that it ran.
        charged: The membrane before the reset, [N, C/2, ...].
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
            of_spikes: The gradient with respect to the spikes, [N, C/2, ...].
            of_kept: The gradient with respect to the membrane that is kept, [N, C/2, ...].
        """
        if self.branch.grid is not None:
            of_kept = of_kept * (self.rounded == self.kept)
        slope = derivative(self.branch.surrogate, self.distance)
        match self.branch.reset:
            case Subtract(detach):
                fired = of_spikes if detach else of_spikes - of_kept * self.branch.threshold
                return torch.addcmul(of_kept, fired, slope)
            case Hard(value, detach):
                jump = value - self.charged
                fired = of_spikes if detach else torch.addcmul(of_spikes, of_kept, jump)
                return torch.addcmul(of_kept * (1 - self.spikes), fired, slope)
            case Keep():
                return torch.addcmul(of_kept, of_spikes, slope)


def replay(branch: Branch, current: Tensor, membrane: Tensor) -> Replay:
    """Run one half again.

    Args:
        branch: The step.
        current: [N, C/2, ...].
        membrane: Before the step, [N, C/2, ...].
    """
    charged = branch.charge(current, membrane)
    distance = charged - branch.threshold
    spikes = fire(distance, branch.surrogate, strict=branch.strict)
    rounded = kept = branch.reset(charged, spikes, branch.threshold)
    if branch.grid is not None:
        rounded = on_grid(rounded, branch.grid.bits)
        kept = torch.clamp(rounded, -branch.grid.limit, branch.grid.limit)
    return Replay(branch, charged, distance, spikes, rounded, kept)


def derivative(surrogate: Surrogate, distance: Tensor) -> Tensor:
    """What stands for the step's derivative at a distance from the threshold, any shape."""
    if surrogate.function is None:
        return DERIVATIVES[surrogate.name](distance, *surrogate.parameters)
    with torch.enable_grad():
        leaf = distance.detach().requires_grad_()
        spikes = fire(leaf, surrogate, strict=False)
        found: Any = torch.autograd.grad(spikes, leaf, torch.ones_like(spikes))
    return found[0]  # type: ignore[no-any-return]

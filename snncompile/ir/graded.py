"""Neurons whose spikes have a size: how far the membrane is above its threshold.

Hao et al., 2024, arXiv:2410.07547 (EM-PF, in later versions HD-LIF). There is no surrogate in
them: the gradient is that of the ReLU.
"""

import torch
from torch import Tensor

from snncompile.ir.charges import Charge, Number
from snncompile.ir.counts import in_units


def multi_precision(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    levels: float | None = None,
    unit: float = 0.25,
    detach_membrane: bool = False,
) -> tuple[Tensor, Tensor]:
    """Emit what lies above the threshold, and keep the rest: "precise-positioning reset".

    With m the charged membrane, s = max(m - threshold, 0) is emitted and m - s, which is
    min(m, threshold), stays. Where it fires, the membrane it leaves does not depend on m: the
    gradient through time stops there by itself.

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...].
        charge: How current and leak move the membrane.
        threshold: What stays at most; a tensor must broadcast to the current.
        levels: Round what is emitted to a multiple of `unit`, at most this many; None leaves it.
            The gradient does not see it, and the membrane loses what was not rounded.
        unit: The size of one level.
        detach_membrane: Treat the incoming membrane as a constant in the backward pass.

    Returns:
        What is emitted and the membrane after the reset, each [N, ...].
    """
    charged = charge(current, membrane.detach() if detach_membrane else membrane)
    above = torch.relu(charged - threshold)
    emitted = above if levels is None else in_units(above, levels, unit)
    return emitted, charged - above


def stateless_multi_precision(
    current: Tensor, *, threshold: Number, levels: float | None = None, unit: float = 0.25
) -> tuple[Tensor]:
    """`multi_precision` without a membrane: every step by itself, so that all can run at once.

    Args:
        current: Input current, [N, ...].
        threshold: What of it is not emitted.
        levels: As for `multi_precision`.
        unit: The size of one level.

    Returns:
        What is emitted, [N, ...], as the only part of a tuple: there is no next state.
    """
    above = torch.relu(current - threshold)
    return (above if levels is None else in_units(above, levels, unit),)

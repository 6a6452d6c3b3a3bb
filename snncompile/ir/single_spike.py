"""A neuron that emits at most one spike in a whole sequence: its first.

Until it fires a neuron is never reset, and afterwards it stays silent. So the first crossing of
the threshold by the membrane without a reset is the first spike of the neuron with any reset.
With S~[t] whether the membrane is across the threshold at step t, and

    z[t] = sum over k <= t of (t - k + 1) S~[k],

the spike is at the one step where z is 1. Forward nothing depends on how large z grows, so that
it is counted to 2 only, which every dtype holds. Backward the gradient takes the way of the whole
sum, through a derivative at z that the rule gives: "v1" lets it through before the spike only
(the derivative of relu(z (1 - z) + 1) z), "v2" at every step (Taylor, King and Harper, 2022,
arXiv:2205.15286, first and second version).
"""

from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from snncompile.ir.charges import Charge, Number
from snncompile.ir.surrogates import Surrogate, fire

Rule: TypeAlias = Literal["v1", "v2"]


def single_spike(  # noqa: PLR0913
    current: Tensor,
    membrane: Tensor,
    fired: Tensor,
    elapsed: Tensor,
    *,
    charge: Charge,
    threshold: Number,
    surrogate: Surrogate,
    rule: Rule = "v2",
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Emit the first spike of the sequence and no other; see the module's docstring.

    Args:
        current: Input current, [N, ...].
        membrane: Membrane after the last step, [N, ...]; it is not reset.
        fired: Whether the neuron has fired, 0 or 1, [N, ...].
        elapsed: 0 before it fires, 1 when it does, 2 afterwards, [N, ...].
        charge: How current and leak move the membrane.
        threshold: Firing threshold; a tensor must broadcast to the current.
        surrogate: The derivative of a crossing by the membrane.
        rule: The derivative of the spike by z.
        strict: Fire above the threshold only; otherwise at it too.

    Returns:
        Spikes, membrane, fired and elapsed after this step, each [N, ...].
    """
    charged = charge(current, membrane)
    crossed = fire(charged - threshold, surrogate, strict=strict)
    has_fired = cast("Tensor", _UpTo.apply(fired + crossed, 1.0))  # type: ignore[no-untyped-call]
    counted = cast("Tensor", _UpTo.apply(elapsed + has_fired, 2.0))  # type: ignore[no-untyped-call]
    spikes = cast("Tensor", _First.apply(counted, rule))  # type: ignore[no-untyped-call]
    return spikes, charged, has_fired, counted


class _UpTo(torch.autograd.Function):
    """min(value, limit), whose gradient is that of the value: what z is to the rules."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, limit: float) -> Tensor:
        return torch.clamp(value, max=limit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        """Nothing is kept: the gradient is that of the identity."""

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grad_outputs[0], None


class _First(torch.autograd.Function):
    """1 where z is 1, else 0; the derivative is the rule's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(elapsed: Tensor, rule: Rule) -> Tensor:
        return (elapsed == 1).to(elapsed.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        elapsed, ctx.rule = inputs
        ctx.save_for_backward(elapsed)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (elapsed,) = ctx.saved_tensors
        if ctx.rule == "v2":
            return grad_outputs[0], None
        return grad_outputs[0] * (elapsed == 0).to(elapsed.dtype), None

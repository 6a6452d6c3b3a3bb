"""A Linear on leaky counts of spikes, a[t] = decay * a[t-1] + s[t], which adds up the events.

The product is a leaky count itself: W a[t] = decay * W a[t-1] + W s[t]. So the weights of the
spikes are added up, as in `event_operators`, and the sums accumulated. The spikes are found again
from the counts: a[t] - decay * a[t-1] is 0 or 1 but for rounding. Of the first step the counts are
spikes where the sequence begins at rest, and multiplied where it does not. Backward it is the
Linear that it stands for.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from snncompile.kernels import event_costs as costs
from snncompile.kernels import events
from snncompile.kernels.bits import Packed, pack, pack_increments
from snncompile.kernels.event_operators import tell
from snncompile.kernels.operator import operator


@operator("snncompile::event_traces")
def event_traces(  # noqa: PLR0913, PLR0917
    traces: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    decay: float,
    steps: int,
    below: float | None,
    report: int,
) -> tuple[Tensor, Tensor]:
    """A Linear.

    Args:
        traces: [T * N, M], float32 or float64 on the CPU; any values are right, leaky counts of a
            few ones are fast.
        weight: [M', M].
        bias: [M'], or None.
        decay: Theirs.
        steps: T, at least 2.
        below: Add up events where at most this share of the inputs is active, none below 0; None
            measures which way is faster.
        report: The number of the `Events` to report to, if there is one.

    Returns:
        The product, [T * N, M'], and 1, or 0 where no events were added up.
    """
    first = len(traces) // steps
    rows, inputs, outputs = len(traces) - first, traces.shape[1], len(weight)
    asked = below is None or below >= 0
    known = asked and events.fits(rows, inputs, outputs, traces.dtype)
    packed = pack_increments(traces, first, decay) if known else None
    share = None if packed is None else events.active(packed.bits) / (rows * inputs)
    price = partial(costs.price, ("traces", steps), rows, weight)
    dense = partial(_dense, traces, weight, bias)
    added = partial(_added, traces, packed, weight, bias, decay)
    out, by_events = costs.chosen(share, below, price, dense, added)
    tell(report, share, packed if by_events else None)
    return out, traces.new_full((), by_events, dtype=torch.float64)


def _dense(traces: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, bool]:
    return linear(traces, weight, bias), False


def _added(
    traces: Tensor, packed: Packed | None, weight: Tensor, bias: Tensor | None, decay: float
) -> tuple[Tensor, bool] | None:
    """The product from the spikes; of the first step from the counts, where they are no spikes.

    With a bias, W a[t] + b = decay * (W a[t-1] + b) + W s[t] + (1 - decay) b.
    """
    if packed is None:
        return None
    first = len(traces) - len(packed.bits)
    shift = None if bias is None else (1 - decay) * bias
    begun = pack(traces[:first])
    if begun is not None and begun.size == packed.size:
        whole = Packed(torch.cat((begun.bits, packed.bits)), packed.size)
        out = events.product(whole, weight, shift)
        if bias is not None:
            out[:first].add_(bias, alpha=decay)
    else:
        out = events.product(packed, weight, shift, ahead=first)
        out[:first] = linear(traces[:first], weight, bias)
    steps = out.view(-1, first, len(weight))
    for before, step in pairwise(steps):
        step.add_(before, alpha=decay)
    return out, True


@event_traces.register_fake
def _(traces: Tensor, weight: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return traces.new_empty(len(traces), len(weight)), traces.new_empty((), dtype=torch.float64)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    traces, weight, bias, *_ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.biased = bias is not None
    ctx.save_for_backward(traces, weight)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
    traces, weight = ctx.saved_tensors
    gradient = gradients[0]
    need_traces, need_weight, need_bias = ctx.needs_input_grad[:3]
    found: list[Tensor | None] = [None] * 7
    if gradient is not None:
        found[0] = gradient @ weight if need_traces else None
        found[1] = gradient.t() @ traces if need_weight else None
        found[2] = gradient.sum(0) if ctx.biased and need_bias else None
    return tuple(found)


event_traces.register_autograd(_differentiate, _keep)

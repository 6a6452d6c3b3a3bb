"""A kernel's scan next to the loop over time that defines it."""

# pyright: basic

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snncompile.kernels.scan import FusedScan
from snncompile.kernels.settings import split

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Relative to the largest element: the gradient of a later step is added in another order."""
SUMMED_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""For a setting's gradient, which the loop sums in the neuron's precision, with cancellation."""

Neuron = Callable[..., tuple[Tensor, ...]]


class Run(NamedTuple):
    """What a scan gave.

    Attributes:
        values: Wanted sequences and final states.
        gradients: Of the operands; None where no gradient flows.
    """

    values: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]


def fused(
    neuron: Neuron, current: Tensor, states: Sequence[Tensor], settings: Any, wanted: Sequence[int]
) -> Any:
    """The scan by a kernel; fails when there is none."""
    tensors: list[Tensor] = []
    numbers = split(tuple(settings.items()), Tensor, tensors)
    result = FusedScan(neuron, numbers)(current, tuple(states), tensors, wanted)
    assert result is not None, "there is no kernel"
    return result


def looped(
    neuron: Neuron, current: Tensor, states: Sequence[Tensor], settings: Any, wanted: Sequence[int]
) -> Any:
    """The scan as it is defined: one call a step."""
    rows: list[tuple[Tensor, ...]] = []
    for value in current:
        rows.append(neuron(value, *states, **settings))
        states = rows[-1][1:]
    columns = list(zip(*rows, strict=True))
    kept = [torch.stack(column) if i in wanted else None for i, column in enumerate(columns)]
    return tuple(kept), tuple(states)


def run(scan: Any, neuron: Neuron, operands: Any, settings: Any, wanted: Sequence[int]) -> Run:
    """Scan, then differentiate a weighted sum of all that came out.

    Args:
        scan: `fused` or `looped`.
        neuron: The neuron.
        operands: Current and states.
        settings: Its settings.
        wanted: Which results are kept at every step.
    """
    sequences, finals = scan(neuron, operands[0], operands[1:], settings, wanted)
    values = tuple(value for value in (*sequences, *finals) if value is not None)
    learnt: list[Tensor] = []
    split(tuple(settings.items()), Tensor, learnt)
    sources = [value for value in (*operands, *learnt) if value.requires_grad]
    ends = [value for value in values if value.requires_grad]
    if not ends or not sources:
        return Run(tuple(value.detach() for value in values), ())
    weights = [torch.linspace(-1, 1, v.numel(), dtype=v.dtype).view(v.shape) for v in ends]
    found = torch.autograd.grad(ends, sources, weights, allow_unused=True)
    return Run(tuple(value.detach() for value in values), tuple(found))


def assert_agree(neuron: Neuron, operands: Any, settings: Any, wanted: Sequence[int] = (0,)) -> Run:
    """Values are bit-equal, gradients agree up to the order of sums; returns the definition's."""
    expected = run(looped, neuron, operands, settings, wanted)

    found = run(fused, neuron, operands, settings, wanted)

    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=0, check_stride=False)
    assert len(found.gradients) == len(expected.gradients)
    values = sum(value.requires_grad for value in operands)
    for i, (one, other) in enumerate(zip(found.gradients, expected.gradients, strict=True)):
        assert_near(one, other, TOLERANCE if i < values else SUMMED_TOLERANCE)
    return expected


def assert_near(
    found: Tensor | None, expected: Tensor | None, tolerances: Mapping[torch.dtype, float]
) -> None:
    """Two gradients agree; one that is missing is zero."""
    if found is None or expected is None:
        other = expected if found is None else found
        assert other is None or not other.any()
        return
    tolerance = tolerances[expected.dtype]
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def operands(
    states: int, *shape: int, dtype: torch.dtype = torch.float64, grad: bool = True
) -> list[Tensor]:
    """A current that makes neurons fire, and states, each [T, N, ...] and [N, ...]."""
    current = torch.randn(shape, dtype=dtype) + 0.5
    before = [0.5 * torch.randn(shape[1:], dtype=dtype) for _ in range(states)]
    return [value.requires_grad_(grad) for value in (current, *before)]

"""Fixed-point numbers: values on a dyadic grid, whose sums floating point holds exactly."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """Multiples of 2^-bits between -limit and limit; limit is itself such a multiple.

    Rounding lets the gradient through unchanged; saturating stops it.
    """

    bits: int
    limit: float

    def __call__(self, value: Tensor) -> Tensor:
        """The nearest value on the grid, same shape and dtype."""
        return torch.clamp(on_grid(value, self.bits), -self.limit, self.limit)


class _OnGrid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, scale: float) -> Tensor:
        return torch.round(value * scale) * (1 / scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        """Nothing is kept: the gradient is that of the identity."""

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grad_outputs[0], None


def on_grid(value: Tensor, bits: int) -> Tensor:
    """The nearest multiple of 2^-bits, ties to even; the gradient passes unchanged.

    Args:
        value: Any shape.
        bits: How many binary digits stay behind the point.

    Returns:
        Same shape and dtype.
    """
    return _OnGrid.apply(value, 2.0**bits)  # type: ignore[no-untyped-call, no-any-return]

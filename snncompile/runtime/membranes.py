"""How membranes move over a sequence: the charge of a neuron, row by row and all at once."""

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snncompile.ir.charges import Charge, Decay, Integrate, Number
from snncompile.ir.surrogates import DERIVATIVES, Surrogate, fire

Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""A neuron's keyword arguments."""


class Charging:
    """A charge for many steps: writes the bits that ``charge(current, membrane)`` gives.

    Args:
        charge: The charge.
        like: A membrane.
    """

    def __init__(self, charge: Charge, like: Tensor) -> None:
        self.charge = charge
        self.decay: Tensor | None = None
        if isinstance(charge, Decay):
            given = charge.decay
            exact = not isinstance(given, Tensor) or given.dtype == like.dtype
            self.decay = number(given, like) if exact else None

    def __call__(self, current: Tensor, membrane: Tensor, out: Tensor) -> None:
        """Write the charged membrane.

        Args:
            current: [N, ...].
            membrane: [N, ...].
            out: Where it is written, [N, ...].
        """
        if self.decay is not None:
            torch.mul(membrane, self.decay, out=out)
            out.add_(current)
        elif isinstance(self.charge, Integrate):
            torch.add(membrane, current, out=out)
        else:
            out.copy_(self.charge(current, membrane))


def slopes(charge: Charge, like: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of a charged membrane by current and by membrane; a charge is affine.

    Args:
        charge: The charge.
        like: Gives dtype and device.

    Returns:
        Each of the shape of the charge's settings.
    """
    zero, one = like.new_zeros(()), like.new_ones(())
    with torch.no_grad():
        rest = charge(zero, zero)
        return charge(one, zero) - rest, charge(zero, one) - rest


def derivative(surrogate: Surrogate, distance: Tensor, *, strict: bool) -> Tensor:
    """What stands for the step's derivative at a distance from the threshold, any shape."""
    if surrogate.function is None:
        return DERIVATIVES[surrogate.name](distance, *surrogate.parameters)
    with torch.enable_grad():
        leaf = distance.detach().requires_grad_()
        spikes = fire(leaf, surrogate, strict=strict)
        (found,) = torch.autograd.grad(spikes, leaf, torch.ones_like(spikes))
    return found


EXACT = (torch.float32, torch.float64)
"""Where a setting is rounded to the dtype of the membrane before it is used, in every operation."""


def flat(settings: Settings) -> tuple[list[Any], pytree.TreeSpec]:
    """Settings as leaves, tensors among them, and how to put them together again."""
    return pytree.tree_flatten(dict(settings))


def number(value: Number, like: Tensor) -> Tensor:
    """A setting as a tensor of the dtype of others, which operations take faster than a number."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)

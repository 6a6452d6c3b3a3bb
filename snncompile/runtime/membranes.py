"""How membranes move over a sequence: the charge of a neuron, row by row and all at once."""

from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snncompile.ir.charges import Charge, Decay, Integrate, Number
from snncompile.ir.surrogates import DERIVATIVES, Surrogate, fire

_TILE = 2**16
"""How many elements a tile of steps has at most, if it has several: they stay in the cache."""

Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""A neuron's keyword arguments."""


class Fires(Protocol):
    """What decides on firing, among a neuron's settings."""

    @property
    def threshold(self) -> Number:
        """Firing threshold."""
        ...

    @property
    def surrogate(self) -> Surrogate:
        """What stands for the derivative of firing."""
        ...

    @property
    def strict(self) -> bool:
        """Whether it fires above the threshold only."""
        ...


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


def derivatives(neuron: Fires, charged: Tensor) -> Tensor:
    """The surrogate's derivative at every step, in tiles of steps that stay in the cache.

    Args:
        neuron: The settings of the neuron.
        charged: Its charged membranes, [T, N, ...].
    """
    threshold = number(neuron.threshold, charged).detach()
    found = torch.empty_like(charged)
    steps = max(1, _TILE // max(1, charged[0].numel()))
    tiles = torch.split(charged, steps), torch.split(found, steps)
    for tile, out in zip(*tiles, strict=True):
        out.copy_(_derivative(neuron, tile - threshold))
    return found


def _derivative(neuron: Fires, distance: Tensor) -> Tensor:
    surrogate = neuron.surrogate
    if surrogate.function is None:
        return DERIVATIVES[surrogate.name](distance, *surrogate.parameters)
    with torch.enable_grad():
        leaf = distance.detach().requires_grad_()
        spikes = fire(leaf, surrogate, strict=neuron.strict)
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


TENSOR = object()
"""Stands among the leaves of settings for a tensor, which autograd keeps."""


def restored(leaves: list[Any], tensors: list[Tensor]) -> list[Any]:
    """Leaves with the tensors in their places again."""
    waiting = iter(tensors)
    return [next(waiting) if leaf is TENSOR else leaf for leaf in leaves]


def scaled(gradient: Tensor, charge: Charge) -> Tensor:
    """The gradient of the currents, given that of the charged membranes, [T, N, ...]."""
    gain = slopes(charge, gradient)[0]
    return gradient if bool((gain == 1).all()) else gradient * gain

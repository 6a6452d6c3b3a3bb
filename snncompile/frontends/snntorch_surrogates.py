"""What the spike functions of snnTorch are in the IR.

snnTorch makes them as closures: ``surrogate.atan(alpha=2.0)`` returns a function that remembers
alpha. The name of the maker and what the closure holds say which derivative it is.
"""

# pyright: basic
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from snntorch import SpikingNeuron, surrogate
from torch import Tensor

from snncompile.ir.surrogates import Surrogate

_NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "atan": ("atan", ("alpha",)),
    "fast_sigmoid": ("fast_sigmoid", ("slope",)),
    "sigmoid": ("sigmoid", ("slope",)),
    "triangular": ("sign", ("threshold",)),
    "spike_rate_escape": ("spike_rate_escape", ("beta", "slope")),
    "straight_through_estimator": ("straight_through", ()),
    "heaviside": ("fired", ()),
    "SFS": ("sparse_fast_sigmoid", ("slope", "B")),
}
"""snnTorch's maker; our name for its derivative, and its parameters in our order."""

SPIKE_FUNCTIONS = (*_NAMES, "SSO", "custom_surrogate")
"""The makers whose spike functions `surrogate_of` knows."""


def surrogate_of(spike: Callable[..., Tensor]) -> Surrogate | None:
    """The surrogate that a neuron's ``spike_grad`` is.

    Args:
        spike: A closure of snntorch.surrogate, the ``apply`` of a torch.autograd.Function, or
            what ``surrogate_disable=True`` puts there.

    Returns:
        The surrogate, or None for any other callable (its gradient cannot be read off it) and
        for ``surrogate.LSO``, which snnTorch 1.0 cannot run.
    """
    if spike is SpikingNeuron._surrogate_bypass:
        return Surrogate("none")
    owner = getattr(spike, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return Surrogate("function", (), owner)
    if getattr(spike, "__module__", None) != surrogate.__name__:
        return None
    maker = spike.__qualname__.partition(".")[0]
    return _from_closure(maker, _remembered(spike))


def _remembered(spike: Callable[..., Tensor]) -> dict[str, Any]:
    cells = spike.__closure__ or ()
    names = spike.__code__.co_freevars
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def _from_closure(maker: str, values: dict[str, Any]) -> Surrogate | None:
    if maker == "custom_surrogate":
        return Surrogate("function", (), _custom(values["func"]))
    if maker == "SSO":
        numbers = (float(values["mean"]), float(values["variance"]))
        return Surrogate("function", numbers, surrogate.StochasticSpikeOperator)
    if maker not in _NAMES:
        return None
    name, parameters = _NAMES[maker]
    return Surrogate(name, tuple(float(values[parameter]) for parameter in parameters))


@cache
def _custom(gradient: Callable[[Tensor, Tensor, Tensor], Tensor]) -> type[torch.autograd.Function]:
    """One class a user's gradient function, so that equal surrogates compare equal."""

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, distance: Tensor) -> Tensor:  # noqa: ANN401
            spikes = (distance > 0).float()
            ctx.save_for_backward(distance, spikes)
            return spikes

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
            distance, spikes = ctx.saved_tensors
            return gradient(distance, gradients[0].clone(), spikes)

    Custom.__name__ = Custom.__qualname__ = gradient.__name__
    return Custom

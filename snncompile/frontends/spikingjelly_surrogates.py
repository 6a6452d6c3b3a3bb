# pyright: basic
"""SpikingJelly's surrogate functions, as surrogates of the IR.

A surrogate of SpikingJelly is a module that is called with membrane minus threshold; all of them
fire at the threshold (``>=``) and differ in the derivative only. `TABLE` names each derivative and
the attributes that hold its parameters.
"""

from typing import NamedTuple

import torch
from spikingjelly.activation_based import surrogate as library
from torch import nn

from snncompile.ir.surrogates import Surrogate


class Derivative(NamedTuple):
    """A name of `snncompile.ir.surrogates.DERIVATIVES` and the attributes of its parameters."""

    name: str
    attributes: tuple[str, ...] = ("alpha",)


TABLE: dict[type[nn.Module], Derivative] = {
    library.ATan: Derivative("atan"),
    library.DeterministicPass: Derivative("straight_through", ()),
    library.Erf: Derivative("erf"),
    library.FakeNumericalGradient: Derivative("fake_numerical_gradient"),
    library.LeakyKReLU: Derivative("leaky_k_relu", ("leak", "k")),
    library.LogTailedReLU: Derivative("log_tailed_relu"),
    library.NonzeroSignLogAbs: Derivative("nonzero_sign_log_abs"),
    library.PiecewiseExp: Derivative("piecewise_exp"),
    library.PiecewiseLeakyReLU: Derivative("piecewise_leaky_relu", ("w", "c")),
    library.PiecewiseQuadratic: Derivative("triangle"),
    library.QPseudoSpike: Derivative("q_pseudo_spike"),
    library.Rect: Derivative("rectangle"),
    library.S2NN: Derivative("s2nn", ("alpha", "beta")),
    library.Sigmoid: Derivative("sigmoid"),
    library.SoftSign: Derivative("soft_sign"),
    library.SquarewaveFourierSeries: Derivative("squarewave_fourier_series", ("n", "T_period")),
    library.SuperSpike: Derivative("super_spike"),
}

_DEFINING = ("forward", "spiking_function", "primitive_function")
"""What a subclass may not override and still be the surrogate it derives from."""


def surrogate_of(function: object) -> Surrogate | None:
    """The IR's surrogate for what a neuron holds as its surrogate function.

    Args:
        function: A surrogate module of the library, its ``heaviside`` (no gradient), or the
            ``apply`` of a torch.autograd.Function.

    Returns:
        The surrogate, or None where `problem` has a reason.
    """
    if function is library.heaviside:
        return Surrogate("none")
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return Surrogate("function", function=owner)
    derivative = _derivative(function)
    if derivative is None or not getattr(function, "spiking", False):
        return None
    parameters = [getattr(function, attribute) for attribute in derivative.attributes]
    if not all(isinstance(parameter, (int, float)) for parameter in parameters):
        return None
    return Surrogate(derivative.name, tuple(float(parameter) for parameter in parameters))


def problem(function: object) -> str | None:
    """Why `surrogate_of` is None, and the way out; None where it is not."""
    if surrogate_of(function) is not None:
        return None
    name = type(function).__name__
    if _derivative(function) is None:
        known = ", ".join(kind.__name__ for kind in TABLE)
        return (
            f"its surrogate {name} is not known; use one of {known}, "
            "or pass the apply of a torch.autograd.Function"
        )
    if not getattr(function, "spiking", False):
        return (
            f"its surrogate {name} has spiking=False, so it does not spike; "
            "call set_spiking_mode(True) on it"
        )
    return f"a parameter of its surrogate {name} is a tensor; give it a plain number"


def _derivative(function: object) -> Derivative | None:
    for kind in type(function).__mro__:
        if kind in TABLE:
            return TABLE[kind]
        if any(name in vars(kind) for name in _DEFINING):
            return None
    return None

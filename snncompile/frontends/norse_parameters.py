"""The parameters of a Norse neuron: which are numbers, and which are learned.

Norse keeps them in ``module.p``, a NamedTuple of tensors that nobody registered, or a module with
parameters. A 0-dim tensor without gradient is a number of the program. It is read with torch's own
rounding, ``dt * tau_mem_inv`` included, so that results stay bit-equal. Everything else stays a
tensor. A tensor cannot be read while a model is captured, so numbers are read before.
"""

# pyright: basic
from typing import Any, NamedTuple, TypeAlias

from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.iaf import IAF, IAFCell
from torch import Tensor, nn

from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate

LibraryModule: TypeAlias = Any
"""A module of Norse: its attributes have no types that hold."""

_NAMES = (
    "tau_syn_inv",
    "tau_mem_inv",
    "tau_adapt_inv",
    "v_leak",
    "v_th",
    "v_reset",
    "beta",
    "alpha",
)
_DERIVATIVES = {
    "super": "fast_sigmoid",
    "heaviside": "none",
    "triangle": "tent",
    "tanh": "tanh",
    "circ": "circ",
    "heavi_erfc": "erfc",
}
"""Norse's threshold methods, and our names of their derivatives; all but two read alpha."""
_FIXED = {"super": (1.0,), "heaviside": ()}
"""Norse 1.1 ignores alpha in "super": its derivative is 1 / (abs(z) + 1)^2."""


class Numbers(NamedTuple):
    """The parameters that are numbers, by Norse's names.

    Attributes:
        values: The numbers.
        rates: ``dt`` times each of them.
    """

    values: dict[str, float]
    rates: dict[str, float]


class Parameters(NamedTuple):
    """What ``module.p`` holds, as the neurons of the IR take it."""

    module: LibraryModule
    numbers: Numbers

    def number(self, name: str) -> neurons.Number:
        """A parameter, by Norse's name."""
        if name in self.numbers.values:
            return self.numbers.values[name]
        learned: Tensor = getattr(self.module.p, name)
        return learned

    def rate(self, name: str) -> neurons.Number:
        """An inverse time constant times the length of a step."""
        if name in self.numbers.rates:
            return self.numbers.rates[name]
        rate: Tensor = self.module.dt * getattr(self.module.p, name)
        return rate

    def surrogate(self) -> Surrogate:
        """What stands for the derivative of the threshold method."""
        method = self.module.p.method
        parameters = _FIXED[method] if method in _FIXED else (self.numbers.values["alpha"],)
        return Surrogate(_DERIVATIVES[method], parameters)

    def reset(self, *, detach: bool = False) -> neurons.Reset:
        """What a spike does: to ``v_reset``, or down by ``v_th`` where LIFBox is told so."""
        if getattr(self.module.p, "reset_method", reset_value) is reset_subtract:
            return neurons.Subtract(detach)
        return neurons.Hard(self.number("v_reset"), detach)


def read(module: LibraryModule) -> Numbers:
    """The numbers among a neuron's parameters; call it outside of a capture."""
    p, names = module.p, [name for name in _NAMES if hasattr(module.p, name)]
    values = {name: _detached(getattr(p, name)) for name in names if _is_number(module, name)}
    return Numbers(
        {name: float(value) for name, value in values.items()},
        {name: float(module.dt * value) for name, value in values.items()},
    )


def _detached(value: float | Tensor) -> float | Tensor:
    return value.detach() if isinstance(value, Tensor) else value


def _is_number(module: LibraryModule, name: str) -> bool:
    """IAF sets requires_grad on its v_reset by itself, so that alone does not make it learned."""
    value = getattr(module.p, name)
    if not isinstance(value, Tensor):
        return True
    if isinstance(value, nn.Parameter) or isinstance(module.p, nn.Module) or value.dim() > 0:
        return False
    by_itself = name == "v_reset" and isinstance(module, (IAF, IAFCell))
    return by_itself or not value.requires_grad


def problem(module: LibraryModule) -> str | None:
    """What about a neuron's parameters is not covered, and the way out; None if all is."""
    method = getattr(module.p, "method", "super")
    if method not in _DERIVATIVES:
        return f"has method={method!r}; use one of {', '.join(_DERIVATIVES)}"
    if method not in _FIXED and not _is_number(module, "alpha"):
        return f"learns alpha, which method={method!r} reads; make alpha a number"
    reset = getattr(module.p, "reset_method", reset_value)
    if reset not in (reset_value, reset_subtract):
        name = getattr(reset, "__name__", repr(reset))
        return f"resets with {name}; use reset_value or reset_subtract of norse"
    return None

"""How current and leak move a membrane within one step: the values a neuron's `charge` can have.

Several are one formula in real arithmetic, summed in another order: each is the order of some
library, because spikes are compared bit for bit. Currents and membranes are [N, ...].
"""

from typing import NamedTuple, TypeAlias

from torch import Tensor

Number: TypeAlias = float | Tensor
"""A setting of a neuron: a number, or a tensor that broadcasts to the current."""


class Integrate(NamedTuple):
    """membrane + current: no leak."""

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane + current


class Decay(NamedTuple):
    """decay * membrane + current: the leak scales the membrane, the current is added as is."""

    decay: Number

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return self.decay * membrane + current


class Relax(NamedTuple):
    """membrane + (current - (membrane - rest)) / tau: the current is divided by tau too."""

    tau: Number
    rest: float = 0.0

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane + (current - (membrane - self.rest)) / self.tau


class Leak(NamedTuple):
    """membrane - (membrane - rest) / tau + current."""

    tau: Number
    rest: float = 0.0

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane - (membrane - self.rest) / self.tau + current


class RelaxRate(NamedTuple):
    """membrane + (current - (membrane - rest)) * rate: `Relax` with a learnable 1 / tau."""

    rate: Number
    rest: float = 0.0

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane + (current - (membrane - self.rest)) * self.rate


class LeakRate(NamedTuple):
    """membrane - (membrane - rest) * rate + current: `Leak` with a learnable 1 / tau."""

    rate: Number
    rest: float = 0.0

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane - (membrane - self.rest) * self.rate + current


class Euler(NamedTuple):
    """membrane + rate * ((rest - membrane) + current): an Euler step of the leaky membrane."""

    rate: Number
    rest: Number = 0.0

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane + self.rate * ((self.rest - membrane) + current)


class EulerBox(NamedTuple):
    """membrane + rate * ((current + rest) - membrane): `Euler`, summed in another order."""

    rate: Number
    rest: Number = 0.0

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return membrane + self.rate * (current + self.rest - membrane)


class Blend(NamedTuple):
    """current * gain + decay * membrane: a resistor-capacitor membrane (Lapicque)."""

    gain: Number
    decay: Number

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return current * self.gain + self.decay * membrane


class Charged(NamedTuple):
    """current: the nodes before the neuron have charged the membrane already."""

    def __call__(self, current: Tensor, membrane: Tensor) -> Tensor:
        """The charged membrane, [N, ...]."""
        return current


Charge: TypeAlias = (
    Integrate | Decay | Relax | Leak | RelaxRate | LeakRate | Euler | EulerBox | Blend | Charged
)
"""Every way to charge a membrane."""

"""What a spike does to its membrane: the values a neuron's `reset` can have.

Membranes and spikes are [N, ...]; spikes are 0 or 1, or counts where a neuron emits those.
"""

from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from snncompile.ir.charges import Number


class Subtract(NamedTuple):
    """A spike lowers the membrane by the threshold; `detach` stops the gradient through it."""

    detach: bool = False

    def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Number) -> Tensor:
        """The membrane after the reset, [N, ...]."""
        emitted = spikes.detach() if self.detach else spikes
        return membrane - emitted * threshold


class Hard(NamedTuple):
    """A spike sets the membrane to `value`; `detach` stops the gradient through it."""

    value: Number = 0.0
    detach: bool = False

    def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Number) -> Tensor:
        """The membrane after the reset, [N, ...]."""
        emitted = spikes.detach() if self.detach else spikes
        return emitted * self.value + (1.0 - emitted) * membrane


class Keep(NamedTuple):
    """A spike leaves the membrane as it is."""

    def __call__(self, membrane: Tensor, spikes: Tensor, threshold: Number) -> Tensor:
        """The membrane, unchanged, [N, ...]."""
        return membrane


Reset: TypeAlias = Subtract | Hard | Keep
"""Every reset within the step that fires."""

DelayedReset: TypeAlias = Literal["subtract", "zero_state", "zero", "zero_subtract", "none"]
"""What a spike of the last step does: "subtract" takes the threshold off undecayed, "zero_state"
clears the membrane before it is charged, "zero" multiplies the charged membrane by 1 - fired,
"zero_subtract" takes fired * charged off it."""

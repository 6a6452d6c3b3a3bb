"""What a person chooses when a network is rewritten to run window by window."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from snncompile.ir.windows import Projection

Spans: TypeAlias = Literal["alternating", "half"]
"""Whether every other module takes windows of three quarters of the map's sides."""

Handover: TypeAlias = Literal["windows", "layers"]
"""From where a window receives its membranes; see `snncompile.windowing.handover`."""

Encoding: TypeAlias = Literal["threshold", "bernoulli", "none"]
"""How what a module's convolutions read becomes spikes."""


@dataclass(frozen=True)
class Settings:
    """The choices.

    Attributes:
        spans: How large windows are.
        projection: Which function makes one membrane of two.
        handover: From where a window receives its membranes.
        encoding: "threshold" emits where a value is above 1/2, "bernoulli" where it is above a
            number drawn between 0 and 1, "none" leaves values as they are.
        gradient: Let gradients pass the encoding unchanged; the authors let none pass.
    """

    spans: Spans = "alternating"
    projection: Projection = "sine"
    handover: Handover = "windows"
    encoding: Encoding = "threshold"
    gradient: bool = True

    @property
    def depth(self) -> int:
        """How many neurons in a row one module has at most."""
        return 2 if self.handover == "windows" else 1

"""Where one call of a time step gets its arguments from."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import fx


@dataclass(frozen=True)
class Here:
    """An argument computed in the same step, at a position of the slice."""

    position: int


@dataclass(frozen=True)
class Earlier:
    """An argument computed `lag` steps ago: a state."""

    position: int
    lag: int


@dataclass(frozen=True)
class Outside:
    """An argument computed before the loop."""

    node: fx.Node


Source: TypeAlias = Here | Earlier | Outside

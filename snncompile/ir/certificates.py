"""What a neuron carries whose steps may run side by side: how they did, and what was fastest."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Certificate:
    """How a neuron ran over the last sequence; written while it runs, no value depends on it.

    Attributes:
        blocks: Into how many blocks of time the sequence was cut; 1 is a loop over its steps.
        sweeps: How many sweeps over all blocks it took to certify every spike; 0 when they were
            given up and the loop ran after all.
        ways: The number of blocks that was fastest, for every kind of call met so far.
    """

    blocks: int = 1
    sweeps: int = 1
    ways: dict[Any, int] = field(default_factory=dict[Any, int], repr=False)

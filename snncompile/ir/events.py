"""What a synapse carries that may add up events: which way it went, and what it saw."""

import itertools
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

_REST = 16
"""A look takes a fraction of a millisecond; in one call of so many it does not matter. The first
looks follow each other sooner: times measured at first calls may mislead."""

_numbers = itertools.count()
_known: "WeakValueDictionary[int, Events]" = WeakValueDictionary()


@dataclass(eq=False)
class Events:
    """How a synapse ran last; written while it runs, no value depends on it.

    Attributes:
        below: Events are added up where at most this share of the inputs is active; None leaves
            it to a measurement which way is faster.
        rate: Which share was active, in a sample of the last call; None before the first one and
            where the inputs were not all 0 or one other number.
        by_events: Whether the last call added up events, rather than multiply.
        resting: For how many calls it multiplies without a look at its inputs.
        rest: For how many it did after the last look.
        decay: Of its inputs where they are leaky counts of spikes; None where they are spikes.
        number: Its own.
    """

    below: float | None = None
    rate: float | None = None
    by_events: bool = False
    resting: int = field(default=0, repr=False)
    rest: int = field(default=0, repr=False)
    decay: float | None = None
    number: int = field(default_factory=lambda: next(_numbers), repr=False)

    def __post_init__(self) -> None:
        _known[self.number] = self

    def saw(self, rate: float | None, *, by_events: bool) -> None:
        """Take down what a call saw and did; where it multiplied, let it rest."""
        self.rate, self.by_events = rate, by_events
        rests = not by_events and self.below is None
        self.rest = min(2 * self.rest + 1, _REST) if rests else 0
        self.resting = self.rest

    def rests(self) -> bool:
        """Whether this call is one to multiply without a look."""
        self.resting = max(0, self.resting - 1)
        return self.resting > 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Events":
        """A copied synapse reports for itself."""
        return Events(self.below, decay=self.decay)


def numbered(number: int) -> Events | None:
    """The one with a number; None where there is none any more."""
    return _known.get(number)

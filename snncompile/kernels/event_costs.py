"""Which of two ways to a product is faster, events or dense: found out while it runs.

What the sum of events takes is a number of *units*, known from its sizes, times the seconds that a
unit takes; a dense product takes the same time whatever it multiplies. Both times are measured at
the first product of each kind and whenever a way runs, and the best one counts, since what else
runs on a machine only ever makes things slower. A sum of events that was found too slow is expected
to be a little faster each time it is not chosen, so that it is tried again one day.
"""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

_MOST = 0.5
"""A share of active inputs from which events never pay."""

_MARGIN = 0.95
"""What the expected time of events must stay below, as a part of the dense product's."""


_FADING = 0.98
"""What is left of the trust in a unit's time whenever it keeps events from being added up."""

_TRIES = 3
"""How often either way of a new kind is measured."""


@dataclass
class _Costs:
    """The best times seen, in seconds: of a row of the dense product, and of a unit of events.

    Of a unit's time `trust` is expected: less, the longer no events were added up.
    """

    row: float = float("inf")
    unit: float = float("inf")
    trust: float = 1.0

    def dense(self, rows: int, way: Callable[[], Result]) -> Result:
        """Run and time the dense product."""
        begun = time.perf_counter()
        found = way()
        self.row = min(self.row, (time.perf_counter() - begun) / rows)
        return found

    def events(self, count: float, way: Callable[[], Result | None]) -> Result | None:
        """Run and time the sum of so many units."""
        begun = time.perf_counter()
        found = way()
        if found is not None:
            self.unit = min(self.unit, (time.perf_counter() - begun) / count)
            self.trust = 1.0
        return found


_known: dict[Hashable, _Costs] = {}
_lock = threading.Lock()


def kind(what: Hashable, rows: int, weight: torch.Size, dtype: torch.dtype) -> Hashable:
    """What products must have in common to take about the same time."""
    return what, rows.bit_length(), tuple(weight), dtype, torch.get_num_threads()


def units(events: float, rows: int, inputs: int, outputs: int) -> float:
    """What a sum of events takes, in additions of one number to another.

    Beside the additions there are results to be written, and operands to be laid out anew. The
    weights are ratios of times that were measured.
    """
    return events * outputs + 20 * rows * outputs + 14 * rows * inputs + 12 * inputs * outputs


def price(
    what: Hashable, rows: int, weight: Tensor, share: float
) -> tuple[Hashable, tuple[int, float]]:
    """The kind and the size, as `faster` takes them, of a Linear on rows of spikes.

    Args:
        what: Which operator multiplies.
        rows: R.
        weight: [M', M].
        share: Which part of the inputs is active.
    """
    outputs, inputs = weight.shape
    count = units(share * rows * inputs, rows, inputs, outputs)
    return kind(what, rows, weight.shape, weight.dtype), (rows, count)


def chosen(
    share: float | None,
    below: float | None,
    price: Callable[[float], tuple[Hashable, tuple[int, float]]],
    dense: Callable[[], Result],
    events: Callable[[], Result | None],
) -> Result:
    """Run the way that is set, or expected to be faster.

    Args:
        share: Which part of the inputs is active; None where there can be no events.
        below: Add up events where at most this share is active; None measures which way is faster.
        price: From the share to the kind and the size that `faster` takes.
        dense: One way.
        events: The other; it returns None where it does not apply.

    Returns:
        What the way returns.
    """
    if share is None or share > (_MOST if below is None else below):
        return dense()
    if below is None:
        return faster(*price(share), dense, events)
    found = events()
    return dense() if found is None else found


def faster(
    kind: Hashable,
    size: tuple[int, float],
    dense: Callable[[], Result],
    events: Callable[[], Result | None],
) -> Result:
    """Run the way that is expected to be faster.

    Args:
        kind: What `kind` returned.
        size: The rows, and the units of this product by events.
        dense: One way.
        events: The other; it returns None where it does not apply.

    Returns:
        What the chosen way returns.
    """
    with _lock:
        first = kind not in _known
        costs = _known.setdefault(kind, _Costs())
    rows, count = size
    for _ in range(_TRIES if first else 0):
        costs.dense(rows, dense)
        costs.events(count, events)
    found = None
    if costs.trust * costs.unit * count < _MARGIN * costs.row * rows:
        found = costs.events(count, events)
    else:
        costs.trust *= _FADING
    return costs.dense(rows, dense) if found is None else found

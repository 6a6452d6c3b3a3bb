"""Which way to a product is taken, with a clock that goes as the ways say."""

# pyright: basic

import time
from collections.abc import Callable

import pytest

from snncompile.kernels import event_costs


class Clock:
    """Seconds, which pass only while a way runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def way(self, name: str, *seconds: float) -> Callable[[], str]:
        """A way that takes so long, call by call, and as long as the last time from then on."""
        left = list(seconds)

        def run() -> str:
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return name

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def chosen(clock: Clock, kind: str, events: tuple[float, ...], calls: int) -> list[str]:
    dense, added = clock.way("dense", 1.0), clock.way("events", *events)
    return [event_costs.faster(kind, (1, 1.0), dense, added) for _ in range(calls)]


@pytest.mark.parametrize(("seconds", "way"), [(0.5, "events"), (1.2, "dense"), (3.0, "dense")])
def test_the_faster_way_is_taken(clock: Clock, seconds: float, way: str) -> None:
    assert set(chosen(clock, f"faster {seconds}", (seconds,), 9)) == {way}


def test_events_that_were_slow_at_first_only_are_found_out(clock: Clock) -> None:
    found = chosen(clock, "slow at first", (3.0, 3.0, 3.0, 0.5), 100)

    assert found[:50] == ["dense"] * 50
    assert found[-40:] == ["events"] * 40


def test_events_that_stay_slow_are_tried_now_and_then(clock: Clock) -> None:
    found = chosen(clock, "slow", (2.0,), 400)

    assert 5 <= found.count("events") <= 12

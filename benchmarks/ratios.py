"""What the results say: ratios of a peer's cost to ours, and costs of ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from records import Row, doubled, one, read

OURS = "snncompile"
STEPPING = ("SpikingJelly single-step", "snnTorch", "Norse box cell")
SELECTING = ("Norse LIF sequence", "sinabs")
TIMES = {1: "process ms", 2: "wall ms"}
"""With one thread CPU time, with two the wall clock."""


@dataclass(frozen=True)
class Found:
    """A measured value, and by which way of ours."""

    value: float
    way: str = ""


Value = Callable[[int], Found | None]


def rivals(file: str, where: Row, threads: int, column: str) -> dict[str, float]:
    """A column of all contenders of a case."""
    rows = one(read(file), where | {"threads": str(threads), "denormals": "flushed"})
    return {row["contender"]: float(row[column]) for row in rows if row[column]}


def faster(file: str, peers: Sequence[str], where: Row, ways: str = OURS) -> Value:
    """The fastest peer's time over that of our fastest way whose name begins so."""

    def value(threads: int) -> Found | None:
        times = rivals(file, where, threads, TIMES[threads])
        return over(times, peers, ways)

    return value


def over(costs: Mapping[str, float], peers: Sequence[str], ways: str) -> Found | None:
    """The least cost of the peers over ours."""
    theirs = [costs[name] for name in peers if name in costs]
    ours = {name: cost for name, cost in costs.items() if name.startswith(ways)}
    if not theirs or not ours:
        return None
    way = min(ours, key=ours.__getitem__)
    return Found(min(theirs) / ours[way], way)


def together(peer: str, steps: int, bounds: tuple[float, float], part: int) -> Value:
    """Memory (part 0) and time (part 1) of the peer over those of one way of ours.

    The way is the one whose worse half, as a share of its bound, is best.
    """

    def value(threads: int) -> Found | None:
        where = {"network": "mlp", "T": str(steps)}
        both = [rivals("mlp", where, threads, name) for name in ("peak MiB", TIMES[threads])]
        if any(peer not in half for half in both):
            return None
        ratios = {
            name: tuple(half[peer] / half[name] for half in both)
            for name in both[0]
            if name.startswith(OURS)
        }
        worse = {
            name: min(ratio / bound for ratio, bound in zip(pair, bounds, strict=True))
            for name, pair in ratios.items()
        }
        way = max(worse, key=worse.__getitem__, default=None)
        return Found(ratios[way][part], way) if way else None

    return value


def least(file: str, column: str, where: Row, ways: str = OURS) -> Value:
    """The least of a column among our ways."""

    def value(threads: int) -> Found | None:
        costs = rivals(file, where, threads, column)
        ours = {name: cost for name, cost in costs.items() if name.startswith(ways)}
        way = min(ours, key=ours.__getitem__, default=None)
        return Found(ours[way], way) if way else None

    return value


def of_fastest(file: str, column: str, where: Row) -> Value:
    """A column of the fastest of our ways."""

    def value(threads: int) -> Found | None:
        times, costs = (rivals(file, where, threads, name) for name in (TIMES[threads], column))
        ours = [name for name in times if name.startswith(OURS)]
        way = min(ours, key=times.__getitem__, default=None)
        return Found(costs[way], way) if way else None

    return value


def scan(column: str, lengths: range) -> Value:
    """The worst of a column of the neuron's scan over all sizes with such lengths."""

    def value(threads: int) -> Found | None:
        rows = one(read("neuron_scan"), {"threads": str(threads)})
        found = [float(row[column]) for row in rows if int(row["T"]) in lengths]
        return Found(min(found), "kernel") if found else None

    return value


def online(file: str, peer: str) -> Value:
    """The peer's time over that of SAF-F."""

    def value(threads: int) -> Found | None:
        rows = one(read(file), {"network": "mlp", "threads": str(threads)})
        column = "process" if threads == 1 else "wall"
        return over({row["contender"]: float(row[column]) for row in rows}, (peer,), "SAF-F")

    return value


def online_share(file: str, column: str, peer: str, way: str) -> Value:
    """A column of SAF over that of a peer."""

    def value(threads: int) -> Found | None:
        rows = one(read(file), {"network": "mlp"}) if threads == 1 else []
        costs = {row["contender"]: float(row[column]) for row in rows}
        return Found(costs[way] / costs[peer], way) if {way, peer} <= costs.keys() else None

    return value


def online_growth(way: str) -> Value:
    """Peak memory of T = 256 over that of T = 16."""

    def value(threads: int) -> Found | None:
        rows = one(read("online_memory"), {"contender": way}) if threads == 1 else []
        peaks = {row["steps"]: float(row["memory"]) for row in rows}
        return Found(peaks["256"] / peaks["16"], way) if {"16", "256"} <= peaks.keys() else None

    return value


def ratio(file: str, column: str, where: Row, over_: Row, under: Row) -> Value:
    """A column of one row over that of another."""

    def value(threads: int) -> Found | None:
        rows = one(read(file), where | ({"threads": str(threads)} if "threads" in where else {}))
        pair = [one(rows, chosen) for chosen in (over_, under)]
        if (threads > 1 and "threads" not in where) or not all(pair):
            return None
        timed = column.replace("process", "wall") if threads > 1 else column
        numbers = [float(half[0][timed]) for half in pair]
        return Found(numbers[0] / numbers[1], pair[1][0].get("contender", ""))

    return value


def worst(file: str, column: str, where: Row) -> Value:
    """The least of a column that holds ratios already."""

    def value(threads: int) -> Found | None:
        rows = one(read(file), where | {"threads": str(threads)})
        return Found(min(float(row[column]) for row in rows), column) if rows else None

    return value


def compile_seconds(cache: str) -> Value:
    """The most CPU seconds of our first call."""

    def value(threads: int) -> Found | None:
        rows = one(read("compile_time"), {"contender": OURS, "cache": cache})
        found = [float(row["process s"]) for row in rows] if threads == 1 else []
        return Found(max(found), OURS) if found else None

    return value


def doubling(what: str) -> Value:
    """The most by which our time grows when a quantity doubles, from the middle of its range on."""

    def value(threads: int) -> Found | None:
        where = {"quantity": what, "contender": OURS, "threads": str(threads)}
        rows = one(read("growth"), where)
        return Found(doubled(rows, TIMES[threads]), OURS) if rows else None

    return value

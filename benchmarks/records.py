"""The results of benchmarks as CSV files: written, read, chosen from. Needs no torch."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

Row = dict[str, str]


def write(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """As CSV."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def read(source: str | Path) -> list[Row]:
    """What `write` wrote, by path or by a name in results/; nothing if there is no such file."""
    path = RESULTS / f"{source}.csv" if isinstance(source, str) else source
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def merged(before: Iterable[Row], rows: Sequence[Row], *, beside: bool = False) -> list[Row]:
    """Earlier rows and new rows, sorted by case.

    Rows of one case are compared with one another, so they must be of one run: of a case that was
    measured now no earlier row is left.

    Args:
        before: Earlier rows.
        rows: New rows.
        beside: The new rows are of a contender that can't be measured in one process with the
            others: only its own earlier rows go.
    """

    def case(row: Row) -> tuple[str, int, int, int]:
        return row["network"], int(row["T"]), int(row["batch"]), int(row.get("width", 0))

    def entry(row: Row) -> tuple[object, ...]:
        return (*case(row), row["contender"]) if beside else case(row)

    measured_now = {entry(row) for row in rows}
    earlier = [row for row in before if entry(row) not in measured_now]
    return sorted([*earlier, *rows], key=case)


def one(rows: Iterable[Row], where: Row) -> list[Row]:
    """The rows that hold these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]


def doubled(rows: Iterable[Row], clock: str = "process ms") -> float:
    """The most by which time grows as a value doubles, in the upper half of the values."""
    times = {float(row["value"]): float(row[clock]) for row in rows}
    upper = sorted(times)[len(times) // 2 :]
    return max(times[value] / times[value / 2] for value in upper)

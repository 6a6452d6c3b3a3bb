"""How time and memory of a training step grow with length, batch, width and depth: P15.

A perceptron, one quantity doubled at a time and the others at their base; one thread, CPU time. The
slope is that of a line through log(cost) against log(quantity): 1 is linear. Against width, weights
and with them the products grow with the square, so 2 is linear there.

    python benchmarks/growth.py [--plot benchmarks/growth.png]
"""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tables
import torch
from peers_contenders import OURS, PEERS, Contender
from peers_networks import perceptron
from records import RESULTS, Row, write

BASE = {"T": 64, "batch": 16, "width": 256, "depth": 3}
VALUES = {
    "T": (16, 32, 64, 128, 256, 512),
    "batch": (4, 8, 16, 32, 64, 128),
    "width": (64, 128, 256, 512, 1024),
    "depth": (1, 2, 4, 8, 16),
}
LINEAR = {"T": 1.0, "batch": 1.0, "width": 2.0, "depth": 1.0}
"""The slope of linear cost."""

COMPARED = ("SpikingJelly multi-step", "snncompile", "snncompile recompute")

SQUARE = 256
"""The longest sequence for contenders that take T^2."""


def case(sizes: Mapping[str, int], contenders: Sequence[Contender], what: str) -> tables.Case:
    """A perceptron of these sizes."""
    x = (torch.rand(sizes["T"], sizes["batch"], sizes["width"]) < 0.1).float()  # noqa: PLR2004
    stages = perceptron((sizes["width"],) * (sizes["depth"] + 1), 4.0)
    return tables.Case(what, stages, x, contenders, width=sizes["width"])


def measured(options: argparse.Namespace) -> Iterable[Row]:
    """One row a quantity, value and contender."""
    named = [c for c in (*PEERS, *OURS) if c.name in COMPARED]
    usual = tables.chosen(named, options)
    square = tuple(contender for contender in PEERS if contender.name == "Norse LIF sequence")
    cases: dict[tuple[str, int], tables.Case] = {}
    base = dict.fromkeys(BASE, 2) if options.quick else BASE
    for what, values in VALUES.items():
        for value in (2, 4)[: 1 + (what == "T")] if options.quick else values:
            contenders = usual + (square if what == "T" and value <= SQUARE else ())
            cases[what, value] = case({**base, what: value}, contenders, what)
    memories = [tables.memory(one) for one in cases.values()]
    for ((what, value), one), memory in zip(cases.items(), memories, strict=True):
        for row in tables.measured(one, memory, options):
            yield {"quantity": what, "value": str(value)} | {
                name: row[name]
                for name in ("contender", "threads", "process ms", "wall ms", "peak MiB")
            }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line through the logarithms of (quantity, cost)."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    middle = [sum(column) / len(logs) for column in zip(*logs, strict=True)]
    above = sum((x - middle[0]) * (y - middle[1]) for x, y in logs)
    return above / sum((x - middle[0]) ** 2 for x, _ in logs)


def points(rows: Iterable[Row], what: str, name: str, cost: str) -> list[tuple[float, float]]:
    """(quantity, cost) of a contender with one thread, by quantity."""
    one = [row for row in rows if row["threads"] == "1"]
    own = [row for row in one if row["quantity"] == what and row["contender"] == name]
    return sorted((float(row["value"]), float(row[cost])) for row in own)


def plot(rows: Sequence[Row], path: Path) -> None:
    """A column a quantity; time above memory; slopes in the legends."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, len(VALUES), figsize=(4 * len(VALUES), 6.4))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    for column, what in zip(axes.T, VALUES, strict=True):
        for axis, cost in zip(column, ("process ms", "peak MiB"), strict=True):
            for name in names:
                line = points(rows, what, name, cost)
                if line:
                    axis.loglog(*zip(*line, strict=True), "o-", label=f"{name}: {slope(line):.2f}")
            axis.set_xscale("log", base=2)
            axis.set(xlabel=what, ylabel=cost)
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure, write, plot, and print the slopes."""
    options = tables.parser(__doc__).parse_args()
    options.seconds = min(options.seconds, 3.0)
    torch.set_flush_denormal(True)
    rows = list(measured(options))
    for what in VALUES:
        for name in dict.fromkeys(row["contender"] for row in rows):
            lines = [points(rows, what, name, cost) for cost in ("process ms", "peak MiB")]
            if len(lines[0]) > 1:
                found = "  ".join(f"{slope(line):.2f}" for line in lines)
                print(
                    f"{what:6} {name:26} slope of time and memory {found}; linear: {LINEAR[what]}"
                )
    if options.out or not options.quick:
        write(rows, options.out or RESULTS / "growth.csv")
        plot(rows, (options.out or RESULTS / "growth.csv").with_suffix(".png"))


if __name__ == "__main__":
    main()

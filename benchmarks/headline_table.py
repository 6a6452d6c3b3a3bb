"""The README's headline table, from results/headline.csv: `python benchmarks/headline_table.py`.

Nothing is computed here but means and deviations over seeds.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "headline.csv"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- headline: begin -->", "<!-- headline: end -->"

ORDER = ("digits", "events", "LIF", "multi-precision", "float32", "ternary", "binary")
ORDERED = ("data", "neurons", "weights", "seed")

COLUMNS = ("data", "neurons", "weights", "accuracy, %", "file, KB", "spikes moved", "energy, nJ")


def rows() -> list[dict[str, str]]:
    """Every run of the CSV file, in the order of the table."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return sorted(csv.DictReader(file), key=lambda run: [order(run[n]) for n in ORDERED])


def order(value: str) -> int:
    """Where a value of a column comes in the table."""
    return ORDER.index(value) if value in ORDER else int(value)


def table(runs: Sequence[Mapping[str, str]]) -> str:
    """The table in Markdown, a row for every cell's seeds."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for cell, seeds in groupby(runs, lambda run: (run["data"], run["neurons"], run["weights"])):
        lines.append(_line([*cell, *_figures(list(seeds))]))
    return "\n".join(lines)


def _figures(seeds: Sequence[Mapping[str, str]]) -> list[str]:
    accuracy, size, energy = (
        [float(run[name]) for run in seeds] for name in ("accuracy", "bytes", "nanojoules")
    )
    moved, spikes = (sum(int(run[name]) for run in seeds) for name in ("moved", "spikes"))
    return [
        f"{statistics.mean(accuracy):.1f} ± {_deviation(accuracy):.1f}",
        f"{statistics.mean(size) / 1000:.1f}",
        f"{moved} of {spikes / 1e6:.1f} M",
        f"{statistics.mean(energy):.1f}",
    ]


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def between_markers(text: str) -> str:
    """What stands between the markers of a README."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    """Write the table into the README."""
    text = README.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{table(rows())}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The table of targets in README.md, from the CSV files in results/.

python benchmarks/summary.py          # prints it
python benchmarks/summary.py --write  # puts it into README.md, between its two comments
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from ratios import Found
from records import one, read
from targets import Target, targets

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by benchmarks/summary.py: begin -->", "<!-- end -->"


def row(target: Target) -> str:
    """One line of the table."""
    found = [target.value(threads) for threads in (1, 2)]
    numbers = [f"{value.value:.3g}{target.unit}" if value else "-" for value in found]
    sign = "<=" if target.most else ">="
    bounds = " / ".join(f"{bound:g}" for bound in dict.fromkeys(target.bound))
    way = next((value.way for value in found if value), "")
    cells = (
        target.row,
        target.what,
        f"{sign} {bounds}{target.unit}",
        *numbers,
        way,
        _verdict(target, found),
    )
    return f"| {' | '.join(cells)} |"


def _verdict(target: Target, found: list[Found | None]) -> str:
    words: list[str] = []
    for threads, value in enumerate(found, 1):
        if value:
            short = target.short(value, threads)
            words.append(f"{short:.0%} short" if short else "met")
    return " / ".join(dict.fromkeys(words)) or "not measured"


def networks() -> Iterable[str]:
    """Lines of the second table: whole networks against themselves."""
    rows = read("networks")
    for name in dict.fromkeys(row["network"] for row in rows):
        for contender in dict.fromkeys(row["contender"] for row in rows):
            own = one(rows, {"network": name, "contender": contender})
            if not own:
                continue
            times = {
                row["threads"]: row["process ms" if row["threads"] == "1" else "wall ms"]
                for row in own
            }
            cells = (
                name,
                contender,
                times.get("1", "-"),
                times.get("2", "-"),
                own[0]["peak MiB"],
            )
            yield f"| {' | '.join(cells)} |"


def text() -> str:
    """Both tables."""
    return "\n".join(
        (
            "| | case | target | 1 thread | 2 threads | by | |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(row(target) for target in targets()),
            "",
            "| training step | | 1 thread, CPU ms | 2 threads, wall ms | peak MiB |",
            "| --- | --- | --- | --- | --- |",
            *networks(),
        )
    )


def placed(readme: str) -> str:
    """README with the tables between the comments."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text()}\n\n{END}{after}"


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="into README.md")
    if parser.parse_args().write:
        README.write_text(placed(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(text())


if __name__ == "__main__":
    main()

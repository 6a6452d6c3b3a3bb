"""The longest sequence that can be trained within a limit of memory.

The system refuses a process more than the limit (RLIMIT_DATA, Linux), counted from where libraries
are loaded and the network is built and warm: what a training step needs, its input included.
benchmarks/README.md says what is measured. `python benchmarks/memory_limit.py --help`.
"""

import argparse
import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from measurement import MEBIBYTE, machine
from recompute_networks import LIBRARIES, OURS, Contender, Network
from records import one, read, write

NETWORK = Network((256, 256, 256), (32,))
"""Narrow, so that its products are cheap beside its neurons: memory runs out sooner than time."""
BATCH = 32
WARM = 16
FIRST, LAST, FACTOR = 1024, 2**16, 4
COLUMNS = ("limit", "contender", "trains", "fails", "cpu seconds")
CLOSE = 1.1
"""How far apart the longest T that trains and the shortest that does not may stay."""


def built(who: str) -> Contender:
    """A contender that has trained once, so that nothing remains to be compiled."""
    x = NETWORK.input(WARM, BATCH)
    found = {**LIBRARIES, **OURS}[who](NETWORK, x)
    train(found, WARM)
    return found


def train(contender: Contender, steps: int) -> None:
    """One training step from rest."""
    contender.reset()
    contender.model(NETWORK.input(steps, BATCH)).mean(0).square().mean().backward()


def limit(size: int) -> None:
    """Allow so many bytes beyond what the process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[5])
    most = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def trains(contender: Contender, steps: int) -> bool:
    """Whether there is memory enough for a sequence of this length."""
    try:
        train(contender, steps)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        return False
    finally:
        contender.model.zero_grad()
        contender.reset()
        gc.collect()
    return True


def longest(contender: Contender, most_seconds: float) -> Iterable[tuple[int, bool, float]]:
    """The lengths that were tried, whether they trained, and CPU seconds."""
    fits, fails, steps, taken = 0, LAST * FACTOR, FIRST, 0.0
    while fails > CLOSE * max(fits, 1) and steps <= LAST and taken <= most_seconds:
        begin = time.process_time()
        good = trains(contender, steps)
        taken = time.process_time() - begin
        yield steps, good, taken
        fits, fails = (max(fits, steps), fails) if good else (fits, min(fails, steps))
        doubled = steps * FACTOR if fits else steps // FACTOR
        middle = round((fits * fails) ** 0.5)
        steps = middle if fits and fails <= LAST else max(doubled, 1)


def searched(who: str, options: argparse.Namespace) -> list[str]:
    """The longest T of a contender, the shortest that failed, CPU seconds at the longest."""
    command = [sys.executable, __file__, "--alone", who, "--limit", str(options.limit)]
    command += ["--seconds", str(options.seconds)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    tries = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 2]  # noqa: PLR2004
    fits = {int(steps): seconds for steps, good, seconds in tries if good == "trains"}
    fails = [int(steps) for steps, good, _ in tries if good == "fails"]
    if done.returncode or not fits:
        raise RuntimeError(f"{who}: {done.stdout}{done.stderr}")
    best = max(fits)
    return [who, str(best), str(min(fails)) if fails else "", fits[best]]


def alone(options: argparse.Namespace) -> int:
    """Search, or try one length, in this process; 1 if that length does not train."""
    contender = built(options.alone)
    limit(options.limit * MEBIBYTE)
    if options.steps:
        good = trains(contender, options.steps)
        print("trains" if good else "fails")
        return int(not good)
    for steps, good, seconds in longest(contender, options.seconds):
        print(steps, "trains" if good else "fails", f"{seconds:.1f}", sep=",", flush=True)
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    known = [*LIBRARIES, *OURS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=int, default=4096, help="MiB")
    parser.add_argument("--seconds", type=float, default=60.0, help="longer tries are the last")
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    parser.add_argument("--alone", choices=known, help="this one, in this process")
    parser.add_argument("--steps", type=int, help="with --alone: try this length only")
    parser.add_argument("--out", type=Path, help="a CSV file, whose other rows stay")
    return parser.parse_args()


def main() -> None:
    """Search, print, write."""
    options = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.alone:
        sys.exit(alone(options))
    print(f"# {machine()}; {options.limit} MiB, batch {BATCH}, {NETWORK}")
    for who in options.only:
        found = dict(zip(COLUMNS, (str(options.limit), *searched(who, options)), strict=True))
        print(*found.values(), sep=",", flush=True)
        if options.out is not None:
            same = {"limit": found["limit"], "contender": who}
            others = [row for row in read(options.out) if one([row], same) == []]
            write([*others, found], options.out)


if __name__ == "__main__":
    main()

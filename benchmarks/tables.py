"""A table of contenders: checked, then timed in turns, their memory taken in fresh processes."""

# pyright: basic

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measurement import Time, Work, in_fresh_process, interleaved, machine, peak_memory, saved_bytes
from peers_contenders import Contender, Network
from peers_networks import EagerBatched, EagerLoop, Stages
from records import RESULTS, Row, merged, read, write
from torch import Tensor

from snncompile.passes import BY_NAME

MOVED, ROUNDED = 1e-4, 1e-2
"""The share of spikes that may move: where products are parted otherwise, and where other kernels
or another layout round every layer otherwise."""

SLOW = 6.0
"""A contender that takes this many times the median is timed once."""

FIELDS = ("network", "T", "batch", "width", "contender", "threads", "denormals", "process ms",
          "wall ms", "peak MiB", "saved bytes", "moved")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One network on one input, and who runs it.

    Attributes:
        network: For the table.
        stages: The layers.
        x: [T, N, ...].
        contenders: In the order of the table.
        rate: Outputs are firing rates, [N, ...]; otherwise spikes, [T, N, ...].
        width: Neurons of a layer, for the table.
        kept_denormals: Names that are timed a second time, on one thread, without flushing
            denormal numbers to zero.
    """

    network: str
    stages: Stages
    x: Tensor
    contenders: Sequence[Contender]
    rate: bool = False
    width: int = 0
    kept_denormals: tuple[str, ...] = ()

    def about(self, contender: Contender) -> Row:
        """The first fields of a row."""
        steps, batch = self.x.shape[:2]
        about = {"network": self.network, "T": steps, "batch": batch, "width": self.width}
        return {name: str(value) for name, value in about.items()} | {"contender": contender.name}


Memory = dict[str, tuple[str, str]]
"""By contender: peak in MiB and saved bytes per neuron-step."""


def memory(case: Case) -> Memory:
    """Of every contender's training step, each in a process of its own, on one thread."""
    torch.set_num_threads(1)
    found: Memory = {}
    for contender in case.contenders:
        try:
            peak, saved = in_fresh_process(lambda contender=contender: _memory_of(case, contender))
        except RuntimeError as error:
            print(f"  {contender.name}: {str(error).splitlines()[0]}", flush=True)
            continue
        found[contender.name] = (f"{peak:.4f}", f"{saved:.3f}")
    return found


def _memory_of(case: Case, contender: Contender) -> tuple[float, float]:
    network, upstream = contender.network(case.stages, case.x, rate=case.rate), _upstream(case)
    x = network.placed(case.x)
    network.train(x, upstream)
    peak = peak_memory(lambda: network.train(x, upstream))
    known = (x, *network.module.parameters(), *network.module.buffers())
    return peak, saved_bytes(lambda: network(x), known) / _neuron_steps(case)


def _upstream(case: Case) -> Tensor:
    """The gradient of the outputs."""
    with torch.no_grad():
        shape = EagerBatched(case.stages).layers(case.x[:1])[-1].shape
    steps = () if case.rate else (len(case.x),)
    return torch.randn(*steps, *shape[1:], generator=torch.Generator().manual_seed(1))


def _neuron_steps(case: Case) -> int:
    with torch.no_grad():
        layers = EagerBatched(case.stages).layers(case.x[:1])
    return len(case.x) * sum(spikes.numel() for spikes in layers)


def rates(case: Case) -> str:
    """Firing rates of every layer, for the line above a table."""
    with torch.no_grad():
        layers = EagerBatched(case.stages).layers(case.x)
    return ", ".join(f"{spikes.mean():.3f}" for spikes in layers)


def measured(case: Case, memories: Memory, options: argparse.Namespace) -> list[Row]:
    """Rows of a case: every contender at every number of threads."""
    print(
        f"\n{case.network}, T = {len(case.x)}, width {case.width}: rates {rates(case)}", flush=True
    )
    known = [contender for contender in case.contenders if contender.name in memories]
    networks = {c.name: c.network(case.stages, case.x, rate=case.rate) for c in known}
    moved = {c.name: str(_moved(case, c, networks[c.name])) if c.same else "" for c in known}
    works = _works(case, networks)
    rows: list[Row] = []
    for threads in options.threads:
        times = timed(works, threads, options.seconds)
        rows += [_row(case, c, (threads, "flushed"), times[c.name]) for c in known]
    if case.kept_denormals:
        some = {name: works[name] for name in case.kept_denormals if name in works}
        torch.set_flush_denormal(False)
        times = timed(some, 1, options.seconds)
        torch.set_flush_denormal(True)
        rows += [_row(case, c, (1, "kept"), times[c.name]) for c in known if c.name in some]
    for row in rows:
        row["peak MiB"], row["saved bytes"] = memories[row["contender"]]
        row["moved"] = moved[row["contender"]]
        print("  ".join(row[name] for name in FIELDS[4:]), flush=True)
    return rows


def _row(case: Case, contender: Contender, setting: tuple[int, str], taken: Time) -> Row:
    times = {"process ms": f"{1e3 * taken.process:.2f}", "wall ms": f"{1e3 * taken.wall:.2f}"}
    return case.about(contender) | {"threads": str(setting[0]), "denormals": setting[1]} | times


def _moved(case: Case, contender: Contender, network: Network) -> int:
    """How many outputs differ from the hand-written network's.

    Raises:
        RuntimeError: More than rounding can explain.
    """
    reference = (EagerBatched if contender.whole else EagerLoop)(case.stages)
    with torch.no_grad():
        spikes = reference(case.x)
    expected = spikes.mean(0) if case.rate else spikes
    found = network(network.placed(case.x)).detach()
    moved = int((found != expected).sum())
    if moved > (ROUNDED if contender.rounds else MOVED) * spikes.numel():
        raise RuntimeError(f"{contender.name}: {moved} of {expected.numel()} outputs differ")
    return moved


def _works(case: Case, networks: dict[str, Network]) -> dict[str, Work]:
    upstream = _upstream(case)

    def work(network: Network) -> Work:
        x = network.placed(case.x)
        return lambda: network.train(x, upstream)

    return {name: work(network) for name, network in networks.items()}


def timed(works: dict[str, Work], threads: int, seconds: float) -> dict[str, Time]:
    """Medians of as many turns as fit into the seconds, three at least; the slow run once."""
    torch.set_num_threads(threads)
    taken: dict[str, float] = {}
    for name, work in works.items():
        work()
        start = time.perf_counter()
        work()
        taken[name] = time.perf_counter() - start
    usual = sorted(taken.values())[len(taken) // 2]
    once = [name for name, value in taken.items() if value > SLOW * usual and value > 1]
    turn = sum(value for name, value in taken.items() if name not in once)
    return interleaved(works, max(3, min(15, int(seconds / turn))), once)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a table."""
    line = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    line.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    line.add_argument("--seconds", type=float, default=10.0, help="for a case on some threads")
    line.add_argument("--only", nargs="+", default=[""], help="contenders whose names hold these")
    line.add_argument("--steps", type=int, nargs="+", help="T, instead of the usual lengths")
    line.add_argument("--quick", action="store_true", help="tiny sizes: does the script run?")
    line.add_argument("--out", type=Path, help="a CSV file; by default one in results/")
    return line


def run(cases: Iterable[Case], options: argparse.Namespace) -> Iterator[list[Row]]:
    """Measure case by case, memory first: forks must come before work on several threads."""
    torch.set_flush_denormal(True)
    print(
        f"# {machine()}; threads {options.threads}; denormals flushed to zero unless said",
        flush=True,
    )
    listed = list(cases)
    memories = [memory(case) for case in listed]
    for case, own in zip(listed, memories, strict=True):
        yield measured(case, own, options)


def chosen(
    contenders: Iterable[Contender], options: argparse.Namespace, *without: str
) -> tuple[Contender, ...]:
    """Those that the command line asks for and that can run; names that hold `without` stay out."""
    return tuple(
        contender
        for contender in contenders
        if any(part in contender.name for part in options.only)
        and not any(part in contender.name for part in without)
        and all(name in BY_NAME for name in contender.passes or ())
    )


def main(doc: str | None, cases: Callable[[argparse.Namespace], Iterable[Case]], name: str) -> None:
    """Measure what the command line asks for and write it.

    Args:
        doc: The script's docstring.
        cases: By the command line's options.
        name: Of the CSV file.
    """
    options = parser(doc).parse_args()
    torch.manual_seed(0)
    path = options.out or RESULTS / f"{name}.csv"
    for rows in run(cases(options), options):
        if options.out or not options.quick:
            write(merged(read(path), rows), path)

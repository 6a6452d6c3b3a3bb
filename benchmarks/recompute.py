"""Recomputation: bytes kept for the backward pass, peak memory and time of a training step.

SpikingJelly over whole sequences, its memory mode, snnTorch and Norse against the same network
here, as it is and with the pass `recompute`. What is measured and how is in benchmarks/README.md.
`python benchmarks/recompute.py --help`.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import recompute_networks as networks
import torch
from measurement import (
    Time,
    interleaved,
    left_alive,
    machine,
    peak_memory,
    resident_peak,
    saved_bytes,
)
from recompute_networks import Contender, Make, Network
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snncompile.passes.recompute import Recompute


class Case(NamedTuple):
    """A network and the size of a call."""

    network: Network
    steps: int
    batch: int


CASES = {
    "mlp-64": Case(networks.MLP, 64, 64),
    "mlp-256": Case(networks.MLP, 256, 64),
    "conv": Case(networks.CONV, 4, 8),
    "vgg11": Case(networks.VGG11, 4, 8),
}


class Row(NamedTuple):
    """One line of the CSV; bytes of a neuron and step, MiB, ms of one thread and of two.

    `saved` is what hooks of autograd see, `alive` what the forward pass leaves in memory, and
    `fewer` how many times as much SpikingJelly saves.
    """

    network: str
    steps: int
    batch: int
    contender: str
    saved: str
    fewer: str
    alive: str
    peak: str
    resident: str
    ms_1: str
    relative_1: str
    ms_2: str
    relative_2: str


def half_of_plain(network: Network, x: Tensor) -> Contender:
    """Recompute, with half of what the plain network keeps as its budget."""
    budget = kept_by(networks.ours(network, "layers"), x) // 2
    return networks.ours(network, "layers", [Recompute(budget=budget)])


JELLY, NEAR = "SpikingJelly", "channels-last"

MAKERS: dict[str, Make] = {
    **networks.LIBRARIES,
    **networks.OURS,
    "recompute, half of plain": half_of_plain,
}


def contenders(case: Case, x: Tensor) -> dict[str, Contender]:
    """All that can train the network as it is: chunks of time change what BatchNorm computes."""
    left_out = "chunks" if len(case.network.shape) > 1 else NEAR
    makers = {name: m for name, m in MAKERS.items() if left_out not in name}
    return {name: make(case.network, x) for name, make in makers.items()}


def train(contender: Contender, x: Tensor) -> None:
    """One training step from rest: forward, backward, SGD."""
    loss_of(contender, x).backward()
    with torch.no_grad():
        for weight in contender.model.parameters():
            if weight.grad is not None:
                weight.sub_(weight.grad, alpha=1e-4)
                weight.grad.zero_()


def loss_of(contender: Contender, x: Tensor) -> Tensor:
    """Of the logits' mean over time."""
    contender.reset()
    return contender.model(x).mean(0).square().mean()


def kept_by(contender: Contender, x: Tensor) -> int:
    """Bytes that autograd keeps between the passes; parameters and input do not count."""
    train(contender, x)
    contender.reset()
    given = [x, *contender.model.parameters()]
    kept = saved_bytes(lambda: contender.model(x), given)
    contender.reset()
    return kept


def _left_by(contender: Contender, x: Tensor) -> int:
    """Bytes that the forward pass leaves, by torch's allocator; some keep what no hook sees."""
    contender.reset()
    left = left_alive(lambda: contender.model(x))
    contender.reset()
    return left


def neuron_steps(case: Case, x: Tensor) -> tuple[int, float]:
    """How many neurons there are, times steps and samples; and how many of these fire."""
    model, _ = networks.jelly(case.network)
    fired: list[Tensor] = []

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        del module, given
        fired.append(output)

    for module in model.modules():
        if isinstance(module, neuron.LIFNode):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(x)
    total = sum(spikes.numel() for spikes in fired)
    return total, float(sum(spikes.sum() for spikes in fired)) / total


def rows(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """All contenders on one network."""
    case = CASES[name]
    x = case.network.input(case.steps, case.batch)
    found = contenders(case, x)
    count, rate = neuron_steps(case, x)
    print(f"# {name}: {count} neuron-steps, {rate:.1%} fire", flush=True)
    kept = {who: kept_by(contender, x) for who, contender in found.items()}
    alive = {who: _left_by(contender, x) for who, contender in found.items()}
    peaks = {who: peak_memory(partial(train, one, x)) for who, one in found.items()}
    times = {threads: _times(found, x, threads, options.repeats) for threads in options.threads}
    for who in found:
        fewer = kept[JELLY] / kept[who]
        measured = (f"{kept[who] / count:.4f}", f"{fewer:.1f}", f"{alive[who] / count:.4f}")
        resident = _resident(name, who) if options.resident else ""
        columns = [c for t in (1, 2) for c in _columns(times.get(t), who, t)]
        yield Row(name, case.steps, case.batch, who, *measured, f"{peaks[who]:.1f}",
                  resident, *columns)  # fmt: skip


def _times(found: dict[str, Contender], x: Tensor, threads: int, repeats: int) -> dict[str, Time]:
    torch.set_num_threads(threads)
    taken = interleaved({who: partial(train, one, x) for who, one in found.items()}, repeats)
    torch.set_num_threads(1)
    return taken


def _columns(times: dict[str, Time] | None, who: str, threads: int) -> tuple[str, str]:
    """CPU time of one thread, or the wall clock of two; and its ratio to SpikingJelly's."""
    if times is None:
        return "", ""
    taken, peer = (times[w].process if threads == 1 else times[w].wall for w in (who, JELLY))
    return f"{1000 * taken:.0f}", f"{taken / peer:.2f}"


def _resident(name: str, who: str) -> str:
    """The peak of the resident size in a fresh process, MiB."""
    command = [sys.executable, __file__, "--network", name, "--alone", who]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def alone(name: str, who: str) -> float:
    """The resident peak of one contender's second training step, in this process."""
    case = CASES[name]
    x = case.network.input(case.steps, case.batch)
    contender = MAKERS[who](case.network, x)
    train(contender, x)
    contender.reset()
    return resident_peak(partial(train, contender, x))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--resident", action="store_true", help="a fresh process for each as well")
    parser.add_argument("--alone", choices=MAKERS, help="only the resident peak of this one")
    parser.add_argument("--out", type=Path, help="a CSV file; otherwise it is printed only")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.alone:
        print(f"{alone(options.network[0], options.alone):.1f}")
        return
    print(f"# {machine()}; medians of {options.repeats}")
    found: list[Row] = []
    for name in options.network:
        for row in rows(name, options):
            found.append(row)
            print(*row, sep=",", flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([Row._fields, *found])


if __name__ == "__main__":
    main()

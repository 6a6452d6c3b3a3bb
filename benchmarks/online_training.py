"""Online training: spike accumulation forwarding against OTTT in SpikingJelly.

One training step (forward, backward, SGD) of the same network from the same parameters: time,
peak memory of activations, operations; and memory against the number of steps. What is measured
and how is in benchmarks/README.md. `python benchmarks/online_training.py --help`.
"""

import argparse
import copy
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from measurement import Time, interleaved, machine, operations, peak_memory
from online_contenders import Bptt, Contender, Ottt, SafFinal, SafSequence, SafSteps, saf
from online_networks import Pair, mlp, vgg
from torch import Tensor, nn

NETWORKS = {"mlp": mlp, "vgg": vgg}
BATCHES = {"mlp": 64, "vgg": 8}
"""The paper's batch for the VGG is 128, at 32 one run takes a quarter of an hour on two cores."""

LENGTHS = (2, 4, 8, 16, 32, 64)


class Row(NamedTuple):
    """One line of the CSV; times in ms, memory in MiB, operations in GFLOP."""

    network: str
    contender: str
    steps: int
    batch: int
    threads: int
    process: str = ""
    wall: str = ""
    memory: str = ""
    forward: str = ""
    whole: str = ""


class Flat(Ottt):
    """SpikingJelly's modules with parameters and inputs in channels-last."""

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """See `Ottt`."""
        nearest = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        yield from super().outputs(nearest.unflatten(0, x.shape[:2]))


def contenders(pair: Pair) -> list[Contender]:
    """Everything that is compared; models of one form share their parameters."""
    ottt, plain = _sgd(pair.ottt), _sgd(pair.plain)
    found: list[Contender] = [
        Ottt("OTTT_O", pair.ottt, ottt, online=True),
        Ottt("OTTT_A", pair.ottt, ottt, online=False),
    ]
    if any(isinstance(module, nn.Conv2d) for module in pair.ottt.modules()):
        near = copy.deepcopy(pair.ottt).to(memory_format=torch.channels_last)
        found += [
            Flat("OTTT_O channels-last", near, _sgd(near), online=True),
            Flat("OTTT_A channels-last", near, _sgd(near), online=False),
        ]
    found.append(Bptt("BPTT", pair.plain, plain))
    online = saf(pair.plain, "steps", update="online")
    steps = saf(pair.plain, "steps")
    found += [
        SafSteps("SAF-E online, steps", online, plain, online=True),
        SafSteps("SAF-E, one step at a time", steps, plain, online=False),
    ]
    for schedule in ("steps", "layers"):
        each, final = (saf(pair.plain, schedule, variant=v) for v in ("each-step", "final"))
        found += [
            SafSequence(f"SAF-E, {schedule}", each, plain),
            SafFinal(f"SAF-F, {schedule}", final, plain),
        ]
    each, final = (
        saf(pair.plain, "layers", "event-driven", variant=v) for v in ("each-step", "final")
    )
    found += [
        SafSequence("SAF-E, layers, event-driven", each, plain),
        SafFinal("SAF-F, layers, event-driven", final, plain),
    ]
    return found


def _chosen(pair: Pair, options: argparse.Namespace) -> list[Contender]:
    return [c for c in contenders(pair) if any(part in c.name for part in options.only)]


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Small steps, so that firing rates stay what they are while times are taken."""
    return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)


RATE = 0.1
"""How many of the perceptron's inputs are active in a step; its layers fire about as often."""


def batch(pair: Pair, steps: int, size: int) -> tuple[Tensor, Tensor]:
    """A sequence, [T, N, ...], and labels, [N]: of spikes, or of an image at every step."""
    if len(pair.shape) == 1:
        x = (torch.rand(steps, size, *pair.shape) < RATE).float()
    else:
        frame = torch.rand(size, *pair.shape)
        x = frame.expand(steps, *frame.shape).contiguous()
    return x, torch.randint(0, 10, (size,))


def compare(name: str, options: argparse.Namespace) -> list[Row]:
    """Time, memory and operations of every contender."""
    pair = NETWORKS[name]()
    size = options.batch or BATCHES[name]
    x, labels = batch(pair, options.steps, size)
    rivals = _chosen(pair, options)
    costs = {rival.name: _cost(rival, x, labels) for rival in rivals}
    works = {rival.name: lambda rival=rival: rival.train(x, labels) for rival in rivals}
    rows: list[Row] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        times = interleaved(works, options.repeats)
        for rival in rivals:
            where = (name, rival.name, options.steps, size, threads)
            rows.append(Row(*where, *_milliseconds(times[rival.name]), *costs[rival.name]))
    return rows


def _cost(rival: Contender, x: Tensor, labels: Tensor) -> tuple[str, str, str]:
    """Memory, operations forward and in the whole step, after a first run that compiles."""
    rival.train(x, labels)
    whole = operations(lambda: rival.train(x, labels))
    forward = operations(lambda: rival.forward(x))
    memory = peak_memory(lambda: rival.train(x, labels))
    return f"{memory:.2f}", f"{forward:.3f}", f"{whole:.3f}"


def _milliseconds(taken: Time) -> tuple[str, str]:
    return f"{taken.process * 1000:.1f}", f"{taken.wall * 1000:.1f}"


def memory_against_steps(name: str, options: argparse.Namespace) -> list[Row]:
    """Peak memory of every contender for sequences of several lengths."""
    pair = NETWORKS[name]()
    size = options.batch or BATCHES[name]
    rivals = _chosen(pair, options)
    rows: list[Row] = []
    for steps in options.memory or LENGTHS:
        x, labels = batch(pair, steps, size)
        for rival in rivals:
            rival.train(x, labels)
            peak = peak_memory(lambda rival=rival, x=x, labels=labels: rival.train(x, labels))
            where = (name, rival.name, steps, size, torch.get_num_threads())
            rows.append(Row(*where, memory=f"{peak:.2f}"))
    return rows


def written(rows: list[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    return text.getvalue()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=["mlp", "vgg"])
    parser.add_argument("--batch", type=int, help=f"default: {BATCHES}")
    parser.add_argument("--steps", type=int, default=6, help="T")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory", type=int, nargs="*", metavar="T", help=f"memory alone, for T of {LENGTHS}"
    )
    parser.add_argument("--only", nargs="+", default=[""], help="contenders whose names hold these")
    parser.add_argument("--out", type=Path, help="a CSV file; otherwise it is printed only")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads[0])
    print(f"# {machine()}; threads {options.threads}, medians of {options.repeats}")
    measure = compare if options.memory is None else memory_against_steps
    text = written([row for name in options.network for row in measure(name, options)])
    print(text, end="")
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

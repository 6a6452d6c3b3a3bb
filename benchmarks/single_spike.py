"""Single spikes: one layer by T, the neuron alone, and synapses that read spike times.

What is measured is in benchmarks/README.md. `python benchmarks/single_spike.py --help`.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from measurement import Time, Work, interleaved, machine
from single_spike_contenders import DECAY, compiled, convolution, loop, spikingjelly
from torch import Tensor, nn

from snncompile.ir.charges import Decay
from snncompile.ir.neurons import single_spike
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime.scan import NeuronScan
from snncompile.runtime.single_spike import first_spikes
from snncompile.runtime.spike_times import scan_times, weighed

INPUTS, NEURONS, BATCH = 1000, 200, 32
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
LONGEST_CONVOLUTION = 512
"""Beyond this one run takes minutes and gigabytes."""

SETTINGS = {
    "charge": Decay(DECAY),
    "threshold": 1.0,
    "surrogate": Surrogate("fast_sigmoid", (10.0,)),
}
OURS = "snncompile, events"
Rows = list[dict[str, str]]


def layer(lengths: list[int], repeats: int) -> Rows:
    """Forward and backward of Linear and neuron, against T."""
    synapse = nn.Linear(INPUTS, NEURONS)
    ours = compiled(synapse, events=True)
    rows: Rows = []
    for steps in lengths:
        x = _random_trains(steps)
        forms: dict[str, Callable[[Tensor], Tensor]] = {
            OURS: ours,
            "snncompile, dense synapse": compiled(synapse, events=False),
            "loop": loop(synapse, batched=False),
            "loop, batched synapse": loop(synapse, batched=True),
            "SpikingJelly multi-step": spikingjelly(synapse),
        }
        if steps <= LONGEST_CONVOLUTION:
            forms["O(T^2) convolution"] = convolution(synapse)
        upstream = torch.randn(steps, BATCH, NEURONS)
        works = {name: _training(form, synapse, x, upstream) for name, form in forms.items()}
        spikes = forms["loop"](x)
        moved = int((ours(x) != spikes).sum())
        print(f"T={steps}: {spikes.sum(0).mean():.2f} of the neurons fire, {moved} spikes moved")
        rows += _rows("layer", steps, _timed(works, repeats), OURS)
    return rows


def neuron(repeats: int) -> Rows:
    """The forward pass of the neuron alone: its spikes, and its spike times."""
    rows: Rows = []
    for steps, width in ((1000, 512), (100, 8192), (1000, 8192)):
        current, start = torch.randn(steps, width) * 0.3, (torch.zeros(width),) * 3
        settings = tuple(SETTINGS.items())
        scan = NeuronScan(single_spike, settings)
        works: dict[str, Work] = {
            "kernel": _silent(scan, current, start, (), (0,)),
            "kernel, spike times": _silent(scan_times, scan, current, start, (), dense=False),
            "torch, spike times": _silent(first_spikes, current, start, settings, dense=False),
            "torch, spikes": _silent(first_spikes, current, start, settings, dense=True),
            "loop": _silent(_step_by_step, current, start),
        }
        rows += _rows(f"neuron, {width} wide", steps, _timed(works, repeats), "kernel")
    return rows


def synapse(lengths: list[int], repeats: int) -> Rows:
    """Forward and backward of a Linear behind single-spike neurons, dense and by spike times."""
    linear, rows = nn.Linear(INPUTS, NEURONS), list[dict[str, str]]()
    for steps in (4, 8, 16, *lengths):
        times = torch.randint(0, 2 * steps, (BATCH, INPUTS)).clamp(max=steps)
        dense = torch.zeros(steps + 1, BATCH, INPUTS).scatter_(0, times.unsqueeze(0), 1)[:steps]
        silent = torch.zeros(()).expand(steps, BATCH, INPUTS)
        upstream = torch.randn(steps * BATCH, NEURONS)
        for wanted in (False, True):
            read = [value.detach().requires_grad_(wanted) for value in (dense, silent)]
            made = (
                lambda x=read[0]: linear(x.flatten(0, 1)),
                lambda x=read[1], t=times: weighed(linear, x, t),
            )
            inputs = [(linear.weight, value) if wanted else (linear.weight,) for value in read]
            names = ("dense", "spike times")
            works = {
                name: _gradient(run, upstream, given)
                for name, run, given in zip(names, made, inputs, strict=True)
            }
            what = "synapse" if wanted else "synapse, no gradient of its spikes"
            rows += _rows(what, steps, _timed(works, repeats), "spike times")
    return rows


def _random_trains(steps: int) -> Tensor:
    """Poisson trains with rates up to 200 Hz, one step a millisecond."""
    return (torch.rand(steps, BATCH, INPUTS) < 0.2 * torch.rand(BATCH, INPUTS)).float()


def _training(
    form: Callable[[Tensor], Tensor], linear: nn.Linear, x: Tensor, upstream: Tensor
) -> Work:
    return _gradient(lambda: form(x), upstream, (linear.weight, linear.bias))


def _gradient(run: Callable[[], Tensor], upstream: Tensor, inputs: tuple[Tensor, ...]) -> Work:
    def work() -> None:
        torch.autograd.grad(run(), inputs, upstream)

    return work


def _silent(run: Callable[..., object], *args: object, **options: object) -> Work:
    def work() -> None:
        with torch.no_grad():
            run(*args, **options)

    return work


def _step_by_step(current: Tensor, states: tuple[Tensor, ...]) -> Tensor:
    spikes: list[Tensor] = []
    for value in current.unbind(0):
        fired, *rest = single_spike(value, *states, **SETTINGS)
        states = tuple(rest)
        spikes.append(fired)
    return torch.stack(spikes)


def _timed(works: dict[str, Work], repeats: int) -> dict[str, Time]:
    for work in works.values():
        work()
    return interleaved(works, repeats)


def _rows(part: str, steps: int, times: dict[str, Time], own: str) -> Rows:
    rows: Rows = []
    for name, taken in times.items():
        ratio = taken.process / times[own].process
        row = {"part": part, "T": str(steps), "contender": name}
        row |= {"process ms": f"{1e3 * taken.process:.2f}", "wall ms": f"{1e3 * taken.wall:.2f}"}
        rows.append(row | {f"against {own}": f"{ratio:.2f}"})
        print(f"{part:36} T={steps:5} {name:26} {1e3 * taken.process:10.2f} ms  x{ratio:.2f}")
    return rows


def main() -> None:
    """Run what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=["layer", "neuron", "synapse"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}, {chosen.threads} threads")
    rows: Rows = []
    for threads in chosen.threads:
        torch.set_num_threads(threads)
        found: Rows = []
        if "layer" in chosen.parts:
            found += layer(chosen.lengths, chosen.repeats)
        if "neuron" in chosen.parts:
            found += neuron(chosen.repeats)
        if "synapse" in chosen.parts:
            found += synapse(chosen.lengths, chosen.repeats)
        rows += [row | {"threads": str(threads)} for row in found]
    if chosen.out:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

"""A LIF layer's scan over time: generated kernel, eager loop, copy.

    python benchmarks/neuron_scan.py [--threads 1 2] [--quick] [--out FILE.csv]

All contenders run in this process, in turns; every number is a median. With one thread it is CPU
time, with more wall time. "of copy" is the time to copy as many bytes as the kernel must move (12 a
neuron-step each way: current, spikes, kept membrane; gradient, kept membrane, gradient) over the
kernel's, on memory that was touched before. "layer" is what a training step sees: through autograd,
with results on fresh memory, against the loop over time in eager torch.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from records import Row, write
from torch import Tensor

from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.kernels import build
from snncompile.kernels.kernel import Kernel, generate
from snncompile.kernels.layout import layout_of
from snncompile.kernels.step import Definition
from snncompile.kernels.threads import Array, division, run
from snncompile.runtime.scan import NeuronScan, scan

LIF: dict[str, Any] = {
    "charge": neurons.Decay(0.5),
    "threshold": 1.0,
    "reset": neurons.Subtract(),
    "surrogate": Surrogate("atan", (2.0,)),
}
SETTINGS = tuple(LIF.items())
MANY = 2e7
"""Neuron-steps from which a third of the rounds will do."""
SIZES = [(500, 8192), (100, 16384), (16, 65536), (4, 262144), (8, 1 << 20), (500, 65536)]
Contender = Callable[[], object]


def interleaved(contenders: Sequence[Contender], rounds: int) -> list[float]:
    """Median seconds of each: CPU time on one thread, wall time on several."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in contenders]
    for i in range(rounds + 2):
        for contender, seen in zip(contenders, times, strict=True):
            start = clock()
            contender()
            if i > 1:
                seen.append(clock() - start)
    return [median(seen) for seen in times]


def lif_kernel(*, saves: bool = True) -> Kernel:
    """The kernel of the LIF neuron that these tables are about."""
    numbers = (1, (), torch.float32, (0,), (saves, False))
    return generate(Definition(neurons.lif, SETTINGS, *numbers))


def bandwidth(kernel: Kernel, steps: int, width: int, rounds: int) -> tuple[float, float]:
    """Fractions of the copy rate that both sweeps reach on memory that is there already."""
    current, gradient = torch.randn(steps, width), torch.randn(steps, width)
    layout = layout_of(current)
    membrane, scratch, zeros = torch.zeros(3, width)
    spikes, final, kept = kernel.outputs(layout, current)
    derivative = torch.empty_like(current)
    divided = division(steps, width)
    forward = [Array(current, width), Array(membrane), Array(spikes, width), Array(final)]
    forward.append(Array(kept, width))
    backward = [Array(kept, width), Array(gradient, width), Array(zeros), Array(scratch)]
    backward.append(Array(derivative, width))
    source, target = torch.randn(2, 3 * steps * width // 2)
    seconds = interleaved(
        [
            lambda: target.copy_(source),
            lambda: run(kernel.functions[0], (steps, width), divided, forward),
            lambda: run(kernel.functions[1], (steps, width), divided, backward),
        ],
        rounds,
    )
    return seconds[0] / seconds[1], seconds[0] / seconds[2]


def layer(steps: int, width: int, rounds: int) -> tuple[float, float, float, float]:
    """Milliseconds of kernel and loop, forward only and with the backward pass."""
    current = torch.randn(steps, width, requires_grad=True)
    membrane, gradient = torch.zeros(width), torch.randn(steps, width)
    fused = NeuronScan(neurons.lif, SETTINGS)

    def kernel() -> Tensor | None:
        return fused(current, (membrane,), (), (0,))[0][0]

    def loop() -> Tensor | None:
        return scan(neurons.lif, current, (membrane,), SETTINGS, (0,))[0][0]

    def inference(scan: Contender) -> Contender:
        return torch.no_grad()(scan)

    def training(scan: Callable[[], Tensor | None]) -> Contender:
        return lambda: torch.autograd.grad(scan(), current, gradient)

    contenders = [inference(kernel), inference(loop), training(kernel), training(loop)]
    found = [1e3 * seconds for seconds in interleaved(contenders, rounds)]
    return found[0], found[1], found[2], found[3]


def compile_times() -> None:
    """Print what a new kernel costs: traced and compiled, and found in the cache."""
    lif_kernel()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SNNCOMPILE_CACHE"] = directory
        build.cache_directory.cache_clear()
        for label in ("traced, printed, compiled", "traced, printed, found in the cache"):
            start = time.perf_counter()
            lif_kernel()
            print(f"{label}: {time.perf_counter() - start:.3f} s")
        del os.environ["SNNCOMPILE_CACHE"]
        build.cache_directory.cache_clear()


def table(threads: int, rounds: int, sizes: Sequence[tuple[int, int]]) -> list[Row]:
    """Print the table for a number of threads; returns it."""
    rows: list[Row] = []
    torch.set_num_threads(threads)
    kernel = lif_kernel()
    print(f"\n{threads} thread(s), {'CPU' if threads == 1 else 'wall'} time, {rounds} rounds")
    print("|    T |       M | of copy fwd | bwd  | layer fwd ms | loop ms |    x | "
          "fwd+bwd ms | loop ms |    x |")  # fmt: skip
    print("| ---: | ------: | ----------: | ---: | -----------: | ------: | ---: | "
          "---------: | ------: | ---: |")  # fmt: skip
    for steps, width in sizes:
        once = max(3, rounds // 3) if steps * width > MANY else rounds
        forward, backward = bandwidth(kernel, steps, width, once)
        a, b, c, d = layer(steps, width, once)
        cells = (
            f"{a:12.2f}",
            f"{b:7.2f}",
            f"{b / a:4.1f}",
            f"{c:10.2f}",
            f"{d:7.2f}",
            f"{d / c:4.1f}",
        )
        print(
            f"| {steps:4} | {width:7} | {forward:11.2f} | {backward:4.2f}",
            *cells,
            sep=" | ",
            end=" |\n",
            flush=True,
        )
        numbers = {"T": steps, "M": width, "threads": threads, "forward of copy": forward}
        numbers |= {"backward of copy": backward, "forward ms": a, "forward loop ms": b}
        numbers |= {
            "forward x": b / a,
            "training ms": c,
            "training loop ms": d,
            "training x": d / c,
        }
        rows.append({name: f"{number:.4g}" for name, number in numbers.items()})
    return rows


def main() -> None:
    """Print machine, compile times and one table for every number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="a CSV file")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f}, "
          f"torch {torch.__version__}")  # fmt: skip
    compile_times()
    rows: list[Row] = []
    for threads in options.threads:
        sizes = [(8, 256)] if options.quick else SIZES
        rows += table(threads, 3 if options.quick else 15, sizes)
    if options.out:
        write(rows, options.out)


if __name__ == "__main__":
    main()

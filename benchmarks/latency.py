"""A time step at batch 1, streaming: exported files in onnxruntime against libraries in torch.

Every contender runs the same network, with states kept from step to step, in one process. In every
turn each runs a stream of steps, so that its weights are in the caches as they are when one network
runs alone; a turn's time is divided by its steps, and medians are over the turns. `--help` lists
the options.
"""

# pyright: basic

import argparse
import copy
import csv
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import latency_networks as networks
import onnxruntime
import torch
from measurement import Work, interleaved, machine

import snncompile
from snncompile.passes.binarize import Binarize

HEADER = ("threads", "network", "contender", "process_us", "wall_us", "bytes", "against_eager")

WEIGHTS: dict[str, tuple[Any, ...]] = {
    "float32": (),
    "int8": (),
    "ternary": (Binarize(ternary=True), "deploy"),
    "binary": (Binarize(), "deploy"),
}
"""The passes before each encoding."""


class Row(NamedTuple):
    """A line of the table; times in microseconds a step."""

    threads: int
    network: str
    contender: str
    process_us: float
    wall_us: float
    bytes: int | str
    against_eager: float


def files(net: networks.Net, threads: int, folder: Path) -> Iterator[tuple[str, Work, int]]:
    """Exported files, loaded: name, one step, size."""
    plain = net.jelly()
    sequence = torch.rand(4, 1, *net.shape)
    x = sequence[0].numpy()
    for weights, passes in WEIGHTS.items():
        model = networks.sequential(copy.deepcopy(plain))
        fast = snncompile.transform(model.eval(), passes, example_inputs=sequence)
        for target in ("any", "x86-int8")[: 1 if weights == "float32" else 2]:
            file = folder / f"{weights}-{target}.onnx"
            settings: Any = {"weights": weights, "target": target, "form": "step"}
            report = snncompile.export(fast, file, example_inputs=sequence, **settings)
            loaded = snncompile.Deployed(file, threads=threads)
            name = weights if target == "any" else f"{weights}, {target}"
            yield name, lambda loaded=loaded: loaded.step(x), report.bytes


def libraries(net: networks.Net) -> Iterator[tuple[str, Callable[[], object]]]:
    """One step of the libraries' networks, as they are and compiled."""
    x = torch.rand(1, *net.shape)
    jelly, torched = net.jelly().eval(), net.torch().eval()
    yield "SpikingJelly", networks.streaming(copy.deepcopy(jelly), x)
    yield "snnTorch", networks.carrying(torched, torched.start(), x)
    yield "SpikingJelly, torch.compile", networks.streaming(torch.compile(jelly), x)
    yield "snnTorch, torch.compile", networks.carrying(torch.compile(torched), torched.start(), x)


def measured(name: str, threads: int, turns: int) -> list[Row]:
    """Every contender of a network."""
    net = networks.NETS[name]
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.compiler.reset()
    with TemporaryDirectory() as folder:
        exported = list(files(net, threads, Path(folder)))
    sizes = {contender: size for contender, _, size in exported}
    steps = {contender: step for contender, step, _ in exported} | dict(libraries(net))
    streams = {k: (lambda step=step: _stream(step, net.stream)) for k, step in steps.items()}
    for stream in streams.values():
        stream()
    times = interleaved(streams, turns)
    each = {k: (1e6 * t.process / net.stream, 1e6 * t.wall / net.stream) for k, t in times.items()}
    eager = min(each["SpikingJelly"][threads > 1], each["snnTorch"][threads > 1])
    return [
        Row(threads, name, k, *pair, sizes.get(k, ""), eager / pair[threads > 1])
        for k, pair in each.items()
    ]


def _stream(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=networks.NETS, default=[*networks.NETS])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--out", type=Path, help="a CSV file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = arguments()
    print(f"# {machine()}, onnxruntime {onnxruntime.__version__}; batch 1, {options.turns} turns")
    rows: list[Row] = []
    for threads in options.threads:
        for name in options.network:
            found = measured(name, threads, options.turns)
            rows += found
            print(f"{name}, {threads} threads: microseconds a step, and times the faster library")
            for row in found:
                print(f"  {row.contender:30}{row.process_us:10.1f} process {row.wall_us:10.1f} wall"
                      f"{row.against_eager:8.2f}x {row.bytes:>12}", flush=True)  # fmt: skip
    if options.out is not None:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            rounded = [[round(v, 2) if isinstance(v, float) else v for v in row] for row in rows]
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rounded])


if __name__ == "__main__":
    main()

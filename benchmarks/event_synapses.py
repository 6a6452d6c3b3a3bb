"""Synapses on spikes: sums over events against dense products and sparse ones, by density.

Linear layers, and convolutions of 3 x 3 against torch's in both memory formats.

What is measured is in benchmarks/README.md. `python benchmarks/event_synapses.py --help`.
"""

import argparse
import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measurement import Work, interleaved, machine
from torch import Tensor
from torch.nn.functional import conv2d, linear

from snncompile.kernels import event_patches, events
from snncompile.kernels.bits import pack
from snncompile.kernels.event_convolution import event_convolution, event_convolution_gradient
from snncompile.kernels.event_operators import event_linear, event_weight_gradient

SIZES = {512: 8000, 1024: 4000, 2048: 2000}
"""Rows for every width, in and out: the dense products take 4 to 17 GFLOP."""

MAPS = {64: (128, 16), 128: (256, 8)}
"""By channels in: channels out and the size of a map; 128 maps, products of 4.8 GFLOP."""

IMAGES = 128
MOVES = [1, 1, 1, 1, 1, 1]
"""Stride, padding and dilation, vertically and horizontally."""

FORMS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}

LAYERS = ("linear", "convolution")
WAYS = ("events", "chosen", "dense")

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3)

SPARSEST = 0.1
"""Above this density sparse products take seconds."""

Rows = list[dict[str, str]]


def forward(spikes: Tensor, weight: Tensor) -> dict[str, Work]:
    """Ways to the product, each from dense spikes: packing them counts."""
    return {
        "events": lambda: event_linear(spikes, weight, None, 1.0, -1),
        "chosen": lambda: event_linear(spikes, weight, None, None, -1),
        "dense": lambda: linear(spikes, weight),
        "sparse CSR": lambda: torch.sparse.mm(spikes.to_sparse_csr(), weight.t()),
    }


def gradient(spikes: Tensor, upstream: Tensor) -> dict[str, Work]:
    """Ways to the weight's gradient, each from what its forward pass keeps."""
    packed, transposed = pack(spikes), spikes.t().to_sparse_csr()
    assert packed is not None
    inputs, size = spikes.shape[1], torch.tensor(1.0, dtype=torch.float64)

    def chosen() -> None:
        event_weight_gradient(upstream, None, packed.bits, size, inputs, None)

    return {
        "events": lambda: events.weight_gradient(packed, upstream, inputs),
        "chosen": chosen,
        "dense": lambda: upstream.t() @ spikes,
        "sparse CSR": lambda: torch.sparse.mm(transposed, upstream).t(),
    }


def convolved(spikes: Tensor, weight: Tensor) -> dict[str, Work]:
    """Ways to a convolution: by events and as the pass chooses, and torch's, from either format."""
    works: dict[str, Work] = {}
    for name, form in FORMS.items():
        x = spikes.contiguous(memory_format=form)
        works[f"events {name}"] = partial(event_convolution, x, weight, None, MOVES, 1.0, -1)
        works[f"chosen {name}"] = partial(event_convolution, x, weight, None, MOVES, None, -1)
        works[f"dense {name}"] = partial(conv2d, x, weight, padding=1)
    return works


def convolved_gradient(spikes: Tensor, weight: Tensor) -> dict[str, Work]:
    """Ways to the weight's gradient, each from what its forward pass keeps."""
    works: dict[str, Work] = {}
    packed, size = event_patches.pack(spikes), torch.tensor(1.0, dtype=torch.float64)
    assert packed is not None
    upstream = torch.randn_like(conv2d(spikes, weight, padding=1))
    settings = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    for name, form in FORMS.items():
        x, g = (value.contiguous(memory_format=form) for value in (spikes, upstream))
        given = (g, None, packed.bits, size, weight, MOVES)
        works[f"events {name}"] = partial(event_convolution_gradient, *given, 1.0)
        works[f"chosen {name}"] = partial(event_convolution_gradient, *given, None)
        backward = torch.ops.aten.convolution_backward
        works[f"dense {name}"] = partial(backward, g, x, weight, *settings)
    return works


def convolutions(threads: int, repeats: int) -> Rows:
    """Both products of convolutions by size and density; the better format of every way."""
    torch.set_num_threads(threads)
    rows: Rows = []
    for channels, (outputs, size) in MAPS.items():
        weight = torch.randn(outputs, channels, 3, 3)
        for density in DENSITIES:
            spikes = (torch.rand(IMAGES, channels, size, size) < density).float()
            made = (convolved(spikes, weight), convolved_gradient(spikes, weight))
            for what, works in zip(("forward", "dW"), made, strict=True):
                taken = _timed(works, repeats, wall=threads > 1)
                row = {"layer": "convolution", "what": what, "width": f"{channels}-{outputs}"}
                best = {way: min(taken[f"{way} {form}"] for form in FORMS) for way in WAYS}
                rows.append(row | _row(density, threads, best))
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def _row(density: float, threads: int, taken: dict[str, float]) -> dict[str, str]:
    row = {"density": f"{density:g}", "threads": str(threads)}
    row["dense ms"] = f"{1e3 * taken['dense']:.1f}"
    ways = (name for name in taken if name != "dense")
    return row | {name: f"{taken['dense'] / taken[name]:.2f}" for name in ways}


def measure(threads: int, sizes: list[int], repeats: int) -> Rows:
    """Both products of Linear layers by size and density."""
    torch.set_num_threads(threads)
    rows: Rows = []
    for width in sizes:
        weight, upstream = torch.randn(width, width), torch.randn(SIZES[width], width)
        for density in DENSITIES:
            spikes = (torch.rand(SIZES[width], width) < density).float()
            made = (("forward", forward(spikes, weight)), ("dW", gradient(spikes, upstream)))
            for what, works in made:
                if density > SPARSEST:
                    del works["sparse CSR"]
                taken = _timed(works, repeats, wall=threads > 1)
                row = {"layer": "linear", "what": what, "width": str(width)}
                rows.append(row | _row(density, threads, taken))
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def _timed(works: dict[str, Callable[[], object]], repeats: int, *, wall: bool) -> dict[str, float]:
    for work in works.values():
        work()
    with torch.no_grad():
        taken = interleaved(works, repeats)
    return {name: time.wall if wall else time.process for name, time in taken.items()}


def main() -> None:
    """Run what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}; columns are the dense product's time over each way's")
    rows: Rows = []
    for threads in chosen.threads:
        if "linear" in chosen.layers:
            rows += measure(threads, chosen.sizes, chosen.repeats)
        if "convolution" in chosen.layers:
            rows += convolutions(threads, chosen.repeats)
    if chosen.out:
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), restval="")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

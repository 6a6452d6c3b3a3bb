"""Synapses on spikes: sums over events against dense products and sparse ones, by density.

What is measured is in benchmarks/README.md. `python benchmarks/event_synapses.py --help`.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from measurement import Work, interleaved, machine
from torch import Tensor
from torch.nn.functional import linear

from snncompile.kernels import events
from snncompile.kernels.bits import pack
from snncompile.kernels.event_operators import event_linear, event_weight_gradient

SIZES = {512: 8000, 1024: 4000, 2048: 2000}
"""Rows for every width, in and out: the dense products take 4 to 17 GFLOP."""

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


def measure(threads: int, sizes: list[int], repeats: int) -> Rows:
    """Both products by size and density."""
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
                row = {"what": what, "width": str(width), "density": f"{density:g}"}
                row |= {"threads": str(threads), "dense ms": f"{1e3 * taken['dense']:.1f}"}
                ratios = {name: f"{taken['dense'] / value:.2f}" for name, value in taken.items()}
                rows.append(row | {name: ratios[name] for name in works if name != "dense"})
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
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}; columns are the dense product's time over each way's")
    rows = [row for n in chosen.threads for row in measure(n, chosen.sizes, chosen.repeats)]
    if chosen.out:
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), restval="")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

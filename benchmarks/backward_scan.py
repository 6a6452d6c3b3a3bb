"""The backward pass of one layer of neurons: kept membranes, recomputed ones, reversible ones: P11.

SpikingJelly's LIF on random currents, [512, 65536], after each pass. The backward pass is the time
of forward and backward less that of the forward pass, both with gradients; one thread, CPU time.
The error is that of the currents' gradient to the kept membranes', relative to its largest value;
the reversible neuron is another function, whose gradient is its own, and has none.
"""

import argparse

import torch
from measurement import Work, interleaved, machine
from peers_contenders import Contender
from peers_networks import SpikingJelly
from records import RESULTS, Row, write
from torch import Tensor, nn

from snncompile.passes import BY_NAME

WAYS = (
    Contender("kept", passes=(), schedule="layers"),
    Contender("recompute", passes=("recompute",), schedule="layers"),
    Contender("reversible", passes=("reversible",), schedule="layers"),
)


def networks() -> dict[str, nn.Module]:
    """The neuron alone, by the way its backward pass goes."""
    return {
        way.name: way.transformed(SpikingJelly([nn.Identity()]))
        for way in WAYS
        if all(name in BY_NAME for name in way.passes or ())
    }


def gradient(network: nn.Module, current: Tensor, upstream: Tensor) -> Tensor:
    """Of the currents."""
    network.reset()
    return torch.autograd.grad(network(current), current, upstream)[0]


def works(current: Tensor, upstream: Tensor) -> dict[str, Work]:
    """Forward, and forward and backward, of every network."""
    found: dict[str, Work] = {}
    for name, network in networks().items():

        def forward(network: nn.Module = network) -> None:
            network.reset()
            network(current)

        def both(network: nn.Module = network) -> None:
            gradient(network, current, upstream)

        found |= {f"{name} forward": forward, name: both}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does the script run?")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    print(f"# {machine()}; threads {options.threads}")
    steps, width = (8, 64) if options.quick else (512, 65536)
    current = torch.randn(steps, 1, width).requires_grad_()
    upstream = torch.randn(steps, 1, width)
    rows: list[Row] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        about = {"T": str(steps), "M": str(width), "threads": str(threads)}
        rows += table(current, upstream, about, 3 if options.quick else 5)
    if not options.quick:
        write(rows, RESULTS / "backward_scan.csv")


def table(current: Tensor, upstream: Tensor, about: Row, rounds: int) -> list[Row]:
    """One row a way: CPU time with one thread, else the wall clock."""
    timed = works(current, upstream)
    for work in timed.values():
        work()
    times = interleaved(timed, rounds)
    clock = "process" if about["threads"] == "1" else "wall"
    taken = {name: 1e3 * float(getattr(time, clock)) for name, time in times.items()}
    exact = {name: gradient(network, current, upstream) for name, network in networks().items()}
    rows: list[Row] = []
    for name, found in exact.items():
        forward = taken[f"{name} forward"]
        error = float((found - exact["kept"]).abs().max() / exact["kept"].abs().max())
        row = {"contender": name} | about | {"forward ms": f"{forward:.2f}"}
        row |= {"backward ms": f"{taken[name] - forward:.2f}"}
        rows.append(row | {"error": "" if name == "reversible" else f"{error:.2g}"})
        print("  ".join(rows[-1].values()), flush=True)
    return rows


if __name__ == "__main__":
    main()

"""What the first training step costs beyond a later one, against the number of steps: P14.

From the model to the end of its first forward and backward pass, less a second pass; in a process
of its own, on one thread, CPU seconds with those of child processes (C compilers). torch's own
modules are imported before. *Cold*: nothing is in any cache on disk. *Cached*: another process has
done the same before. torch.compile gets the hand-written network with time-batched layers.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import torch
import torch._inductor.compile_fx
from measurement import in_fresh_process, machine
from peers_contenders import OURS, PEERS, Contender
from peers_networks import Stages, convolutions, perceptron
from records import RESULTS, Row, write
from torch import Tensor

CACHES = ("SNNCOMPILE_CACHE", "TORCHINDUCTOR_CACHE_DIR")
Network = Callable[[int], tuple[Stages, Tensor]]


def mlp(steps: int) -> tuple[Stages, Tensor]:
    """Three layers of 512 neurons, and an input of batch 16."""
    return perceptron((512,) * 4, 4.0), torch.rand(steps, 16, 512)


def conv(steps: int) -> tuple[Stages, Tensor]:
    """Two convolutions with BatchNorm, and an input of batch 2."""
    return convolutions((64, 128)), torch.rand(steps, 2, 3, 16, 16)


def first_call(contender: Contender, make: Network, steps: int) -> tuple[float, float]:
    """CPU and wall seconds of the first training step less those of the second."""
    torch.set_num_threads(1)
    stages, x = make(steps)
    marks = [_clocks()]
    network = contender.network(stages, x, rate=True)
    upstream = torch.ones(())
    for _ in range(2):
        network.rest()
        network.module(x).sum().backward(upstream)
        marks.append(_clocks())
    (c0, w0), (c1, w1), (c2, w2) = marks
    return (c1 - c0) - (c2 - c1), (w1 - w0) - (w2 - w1)


def _clocks() -> tuple[float, float]:
    times = os.times()
    return sum(times[:4]), time.perf_counter()


def twice(contender: Contender, make: Network, steps: int) -> list[tuple[float, float]]:
    """Cold, then from the cache that this has filled."""
    with TemporaryDirectory() as directory:
        for name in CACHES:
            os.environ[name] = directory
        found = [in_fresh_process(partial(first_call, contender, make, steps)) for _ in range(2)]
        for name in CACHES:
            del os.environ[name]
    return found


def main() -> None:
    """Print and write one row a contender, network and length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="ours only, few steps")
    parser.add_argument("--only", default="", help="contenders whose names hold this")
    options = parser.parse_args()
    print(f"# {machine()}; 1 thread")
    torch.set_flush_denormal(True)
    by_name = {contender.name: contender for contender in (*OURS, *PEERS)}
    ours, theirs = by_name["snncompile"], by_name["torch.compile time-batched"]
    plan = [(ours, mlp, 4), (ours, mlp, 1000), (ours, conv, 4), (ours, conv, 64)]
    plan += [(theirs, mlp, 4), (theirs, mlp, 16), (theirs, conv, 4)]
    if options.quick:
        plan = [(ours, mlp, 2)]
    plan = [one for one in plan if options.only in one[0].name]
    rows: list[Row] = []
    for contender, make, steps in plan:
        for cache, (process, wall) in zip(
            ("cold", "cached"), twice(contender, make, steps), strict=True
        ):
            row = {"network": make.__name__, "T": str(steps), "contender": contender.name}
            row |= {"cache": cache, "process s": f"{process:.2f}", "wall s": f"{wall:.2f}"}
            rows.append(row)
            print("  ".join(row.values()), flush=True)
    if not options.quick:
        write(rows, RESULTS / "compile_time.csv")


if __name__ == "__main__":
    main()

"""The loops of a generated kernel, compiled by the C compiler and by numba.

    pip install numba; python benchmarks/numba_scan.py

The LIF neuron's step is traced and parted as for a kernel; its forward sweep is printed once as C
and once as Python for numba, from the same expressions. One thread, CPU time, in turns, medians;
both write into memory that was touched before. Spikes must be bit-equal.
"""

import time
from typing import Any

import numba
import numpy as np
import torch
from neuron_scan import LIF, SIZES, interleaved, lif_kernel

from snncompile.ir import neurons
from snncompile.kernels import arithmetic
from snncompile.kernels.kernel import Kernel
from snncompile.kernels.layout import layout_of
from snncompile.kernels.sweep import Sweeps, needed
from snncompile.kernels.threads import Array, division, run
from snncompile.runtime.scan import scan


def python_source(sweeps: Sweeps) -> str:
    """The forward sweep of a neuron with one state and no tensor settings, for numba."""
    current, membrane = sweeps.step.operands
    text = {current: "current[t, i]", membrane: "before"}
    body: list[str] = []
    for node in needed((*sweeps.step.results, *sweeps.saved), text):
        name = f"v_{node.name}"
        same = arithmetic.name_of(node) in arithmetic.IDENTITIES
        expression = text[node.all_input_nodes[0]] if same else arithmetic.expression(node, text)
        body.append(f"{name} = {expression}")
        text[node] = name
    spikes, after = (text[node] for node in sweeps.step.results)
    body += [f"spikes[t, i] = {spikes}", f"membrane[i] = {after}"]
    body += [f"kept[t, i] = {text[node]}" for node in sweeps.saved]
    lines = (
        "def forward(current, membrane, spikes, kept):",
        "  for t in range(current.shape[0]):",
        "    for i in range(current.shape[1]):",
        "      before = membrane[i]",
        *(f"      {line}" for line in body),
    )
    return "\n".join(lines)


def _single(x: Any) -> Any:  # noqa: ANN401
    return np.float32(x)


def compiled(sweeps: Sweeps) -> Any:  # noqa: ANN401
    """The sweep as a function of numba."""
    scope: dict[str, Any] = {"real": numba.njit(_single)}
    exec(python_source(sweeps), scope)  # noqa: S102
    return numba.njit(scope["forward"])


def main() -> None:
    """Print compile times, then run times and their ratio for every size."""
    torch.set_num_threads(1)
    kernel = lif_kernel()
    by_numba = compiled(kernel.sweeps)
    small = torch.randn(4, 64)
    arrays = [torch.zeros_like(small[0]), torch.empty_like(small), torch.empty_like(small)]
    start = time.perf_counter()
    by_numba(*(array.numpy() for array in (small, *arrays)))
    print(
        f"numba {numba.__version__} compiles in {time.perf_counter() - start:.2f} s (forward only)"
    )
    (expected, _), _ = scan(neurons.lif, small, (torch.zeros(64),), tuple(LIF.items()), (0,))
    print("bit-equal spikes:", torch.equal(arrays[1], expected))
    print("|    T |       M |    C ms | numba ms | numba / C |")
    print("| ---: | ------: | ------: | -------: | --------: |")
    for steps, width in SIZES:
        c, n = compared(kernel, by_numba, steps, width)
        print(f"| {steps:4} | {width:7} | {c:7.2f} | {n:8.2f} | {n / c:9.2f} |", flush=True)


def compared(kernel: Kernel, by_numba: Any, steps: int, width: int) -> list[float]:  # noqa: ANN401
    """Milliseconds of the sweep in C and by numba."""
    current = torch.randn(steps, width)
    spikes, final, kept = kernel.outputs(layout_of(current), current)
    before, membrane = torch.zeros(2, width)
    inputs = [array.numpy() for array in (current, membrane, spikes, kept)]
    rows = [(current, width), (before, 0), (spikes, width), (final, 0), (kept, width)]
    arrays = [Array(tensor, distance) for tensor, distance in rows]
    divided = division(steps, width)
    seconds = interleaved(
        [
            lambda: run(kernel.functions[0], (steps, width), divided, arrays),
            lambda: by_numba(*inputs),
        ],
        9,
    )
    return [1e3 * value for value in seconds]


if __name__ == "__main__":
    main()

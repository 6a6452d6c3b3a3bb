"""How fast exported files run by encoding of their weights: ratios to the float32 file.

All files of a network run in one process, in turns, a time step a call at batch 1 with the states
in onnxruntime; medians. Usage: python -m benchmarks.encodings
"""

# pyright: basic

import platform
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch

from snncompile import Deployed
from snncompile.export import export_program
from snncompile.ir.program import Program
from tests import programs
from tests.export.quantised_networks import grow, quantised
from tests.export.test_sizes import vgg

ROUNDS = 200
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"weights": "float32"},
    "int8": {"weights": "int8"},
    "binary": {"weights": "binary"},
    "binary, x86-int8": {"weights": "binary", "target": "x86-int8"},
}


def mlp() -> Program:
    """784-512-512-10, all layers binary."""
    widths = (784, 512, 512, 10)
    torch.manual_seed(0)
    root = torch.nn.ModuleDict(
        {f"fc{i}": torch.nn.Linear(widths[i], widths[i + 1]) for i in range(3)}
    )
    grow(root)
    step = programs.Step(root)
    value = step.input("x", widths[0])
    states = [step.state(f"lif{i}.v", widths[i + 1]) for i in range(3)]
    for i, state in enumerate(states):
        value = step.lif(quantised(step, f"fc{i}", value, "binary"), state, f"lif{i}")
    return step.program(value)


def measure(program: Program, shape: tuple[int, ...], rounds: int) -> dict[str, tuple[float, int]]:
    """Milliseconds a step and bytes, by variant."""
    x = np.random.default_rng(0).random((1, *shape), np.float32)
    with TemporaryDirectory() as folder:
        nets, sizes = {}, {}
        for name, settings in VARIANTS.items():
            file = Path(folder, f"{len(nets)}.onnx")
            check = (torch.rand(2, 1, *shape),)
            sizes[name] = export_program(program, file, form="step", check=check, **settings).bytes
            nets[name] = Deployed(file, threads=1)
    times: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(rounds):
        for name, net in nets.items():
            start = time.perf_counter()
            net.step(x)
            times[name].append(time.perf_counter() - start)
    return {name: (1000 * median(values), sizes[name]) for name, values in times.items()}


def main() -> None:
    """Measure two networks and print a table."""
    print(f"{platform.processor() or platform.machine()}, 1 thread, onnxruntime "
          f"{onnxruntime.__version__}, batch 1, a step a call")  # fmt: skip
    torch.set_num_threads(1)
    networks: dict[str, Any] = {
        "MLP 784-512-512-10": (mlp(), (784,), ROUNDS),
        "VGG, 6.5 M": (vgg(), (3, 32, 32), ROUNDS // 8),
    }
    for title, (program, shape, rounds) in networks.items():
        found = measure(program, shape, rounds)
        base = found["float32"][0]
        for name, (milliseconds, size) in found.items():
            print(f"{title:20} {name:18} {milliseconds:8.3f} ms  {base / milliseconds:5.2f}x  "
                  f"{size:>12,} bytes")  # fmt: skip


if __name__ == "__main__":
    main()

"""What the first call of a neuron's kernel costs, for neurons of the IR.

    python benchmarks/first_call.py

"new" traces, prints and compiles; "cached" finds the compiled file on disk, as the next process
does. CPU time of this process and of the compiler together, in seconds, float32, with gradients.
"""

import os
import resource
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from measurement import machine

from snncompile.ir import accumulation, neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.kernels import build
from snncompile.kernels.kernel import generate
from snncompile.kernels.step import Definition

Neuron = Callable[..., tuple[torch.Tensor, ...]]

LEAKY: dict[str, Any] = {"charge": neurons.Decay(0.5), "threshold": 1.0}
RESET: dict[str, Any] = {**LEAKY, "reset": neurons.Subtract()}
FIRING: dict[str, Any] = {**RESET, "surrogate": Surrogate("atan", (2.0,))}
SETTINGS: dict[Neuron, tuple[int, dict[str, Any]]] = {
    neurons.lif: (1, FIRING),
    neurons.rectified_lif: (1, {**FIRING, "slope": 1.1}),
    neurons.integer_lif: (1, {**RESET, "levels": 4.0}),
    neurons.delayed_lif: (1, {**FIRING, "reset": "subtract"}),
    neurons.adaptive_lif: (2, {**FIRING, "rate": 0.1, "jump": 0.3}),
    neurons.integrator: (1, {"charge": neurons.Decay(0.5)}),
    neurons.synaptic_current: (1, {"decay": 0.5, "order": "decay_then_add"}),
    accumulation.accumulating: (1, {**FIRING, "neuron": neurons.lif, "strict": True}),
    neurons.multi_precision: (1, {**LEAKY, "levels": 4.0}),
    neurons.single_spike: (3, {**LEAKY, "surrogate": Surrogate("atan", (2.0,)), "rule": "v2"}),
}
"""How many states each has, and common settings."""


def cpu_seconds(neuron: Neuron, states: int, settings: dict[str, Any]) -> float:
    """The CPU time of making a kernel."""
    differentiable = (True,) * (1 + states)
    shape = (states, (), torch.float32, (0,), differentiable)
    before = _spent()
    generate(Definition(neuron, tuple(settings.items()), *shape))
    return _spent() - before


def _spent() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Print the machine and a row for every neuron."""
    print(machine())
    print("| neuron | new | cached |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SNNCOMPILE_CACHE"] = directory
        build.cache_directory.cache_clear()
        for neuron, (states, settings) in SETTINGS.items():
            new, cached = (cpu_seconds(neuron, states, settings) for _ in range(2))
            print(f"| {neuron.__name__} | {new:.2f} | {cached:.2f} |", flush=True)


if __name__ == "__main__":
    main()

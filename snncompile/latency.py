"""How long a file takes for a time step in onnxruntime, on this machine."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from snncompile.deployed import Deployed

_STEPS = 16
_CALLS = 30
_SECONDS = 0.5
"""A measurement ends after so many calls, or after so long."""


@dataclass(frozen=True)
class Latency:
    """A measurement.

    Attributes:
        milliseconds: Of a time step, the median over the calls.
        batch: How many samples each call had.
        steps: How many time steps each call had.
        calls: How many calls were measured, after one that was not.
    """

    milliseconds: float
    batch: int
    steps: int
    calls: int

    def __str__(self) -> str:
        """A line for people."""
        return (
            f"onnxruntime on this machine: {self.milliseconds:.3g} ms a step, batch {self.batch}, "
            f"{self.steps} steps a call, median of {self.calls} calls"
        )


def latency(path: Path) -> Latency:
    """Measure a file at batch 1, or at the batch that it fixes, on zeros.

    Raises:
        InputError: The file cannot be loaded.
    """
    net = Deployed(path)
    batch = 1 if net.about["batch"] == "dynamic" else int(net.about["batch"])
    steps = 1 if net.form == "step" else _steps(net.about["time"])
    inputs = [np.zeros(slot.sizes(batch, steps), slot.dtype) for slot in net.inputs]
    call = net.step if net.form == "step" else net.run
    call(*inputs)
    times: list[float] = []
    while len(times) < _CALLS and sum(times) < _SECONDS:
        start = time.perf_counter()
        call(*inputs)
        times.append(time.perf_counter() - start)
    return Latency(1000 * median(times) / steps, batch, steps, len(times))


def _steps(fixed: str) -> int:
    return _STEPS if fixed == "any" else int(fixed)

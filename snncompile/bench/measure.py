"""Measures work on the CPU: time, and the memory that a training step takes."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from snncompile.kernels import arena

Work = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        work: What counts.
        before: What has to happen before every call of it and does not count.
    """

    work: Work
    before: Work


@dataclass(frozen=True)
class Time:
    """Medians in seconds: of the wall clock, and of the CPU time of all threads together."""

    wall: float
    process: float


def interleaved(jobs: Mapping[str, Job], repeats: int) -> dict[str, Time]:
    """Time jobs in turn, in alternating order: what slows the machine down slows all of them.

    Args:
        jobs: Each is called once before it is timed.
        repeats: How often each is timed.
    """
    for job in jobs.values():
        _timed(job)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for turn in range(repeats):
        for name in list(jobs) if turn % 2 == 0 else list(jobs)[::-1]:
            taken[name].append(_timed(jobs[name]))
    medians = {n: tuple(map(statistics.median, zip(*t, strict=True))) for n, t in taken.items()}
    return {name: Time(*cast("tuple[float, float]", median)) for name, median in medians.items()}


def _timed(job: Job) -> tuple[float, float]:
    job.before()
    wall, process = time.perf_counter(), time.process_time()
    job.work()
    return time.perf_counter() - wall, time.process_time() - process


class _Kept:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(forward: Callable[[], object], present: Iterable[Tensor]) -> int:
    """What autograd keeps from the end of a forward pass for the backward pass.

    Args:
        forward: Returns what the graph hangs on.
        present: Tensors that are there in any case: parameters, buffers, inputs.

    Returns:
        Bytes; memory that several tensors share counts once.
    """
    alive: WeakSet[_Kept] = WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: cast("_Kept", kept).tensor):
        result = forward()
    gc.collect()
    sizes = {_address(kept.tensor): kept.tensor.untyped_storage().nbytes() for kept in alive}
    del result
    known = {_address(tensor) for tensor in present}
    return sum(size for address, size in sizes.items() if address not in known)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def peak_bytes(job: Job) -> int:
    """The most bytes of tensors that were alive at once beyond what was alive before.

    Read off torch's allocator, which reports every allocation and release to the profiler. Memory
    that is not torch's, as scratchpads of its libraries, is not counted. What kernels keep to use
    again is given back first; what they keep from then on counts.
    """
    job.before()
    arena.release()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        job.work()
    recorded: Any = cast("Any", profiled).profiler.kineto_results.events()
    events = sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns())
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak

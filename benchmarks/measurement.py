"""Time, memory and operations of a training step, on the CPU."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], None]

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Time:
    """Medians in seconds: of the process's CPU time over all threads, and of the wall clock."""

    process: float
    wall: float


def interleaved(works: Mapping[str, Work], repeats: int) -> dict[str, Time]:
    """Time every work `repeats` times, one after the other in turn, in alternating order.

    What slows the machine down for a while then slows all of them down. The caller warms up.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(repeats):
        names = list(works) if turn % 2 == 0 else list(works)[::-1]
        for name in names:
            process, wall = time.process_time(), time.perf_counter()
            works[name]()
            taken[name].append((time.process_time() - process, time.perf_counter() - wall))
    return {
        name: Time(*(statistics.median(column) for column in zip(*pairs, strict=True)))
        for name, pairs in taken.items()
    }


def peak_memory(work: Work) -> float:
    """The most MiB of tensors that were alive at once beyond what was alive before.

    Read off torch's allocator, which reports every allocation and release to the profiler. The
    resident size of the process would be no measure: the C library keeps freed pages, and what
    oneDNN packs into its scratchpads hides the tensors of a small network. The price is that
    those scratchpads, and memory from outside of torch's allocator, are not counted. What was
    alive before and is released on the way is not subtracted: states that a step replaces count.
    """
    return max(_alive(work), default=0) / MEBIBYTE


def left_alive(work: Callable[[], object]) -> int:
    """The bytes of tensors that a call leaves alive, what it returns included."""
    results: list[object] = []
    alive = _alive(lambda: results.append(work()))
    return alive[-1] if alive else 0


def _alive(work: Work) -> list[int]:
    """Bytes that are alive beyond those before, after every allocation and release."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    return list(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def resident_peak(work: Work) -> float:
    """By how many MiB a call raises the resident size of the process at most (Linux).

    Means something in a fresh process only, whose C library returns freed memory at once: start it
    with MALLOC_MMAP_THRESHOLD_=65536 in its environment. Counts what torch's allocator does not
    see, such as the scratchpads of oneDNN.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def saved_bytes(run: Callable[[], Tensor], given: Iterable[Tensor]) -> tuple[int, Tensor]:
    """Bytes of the storages that a call keeps for its backward pass, each once.

    Args:
        run: The call; it has run before, so that nothing is traced or compiled meanwhile.
        given: Parameters and inputs, which do not count.

    Returns:
        The bytes, and what the call returned, so that its graph lives.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(kept.values()), result


def operations(work: Work) -> float:
    """Multiplications and additions of layers, in GFLOP, as torch's counter sees them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def machine() -> str:
    """Processor, cores and torch's version."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    return f"{name}, {len(models)} cores, torch {torch.__version__}"

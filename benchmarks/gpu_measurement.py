"""Time and memory on a GPU, by CUDA's events and torch's allocator; by the clock without one."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import triton

Work = Callable[[], object]

MEBIBYTE = 2**20


def milliseconds(work: Work, device: torch.device) -> float:
    """What one run takes on the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def interleaved(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of every work, run one after the other in turn, in alternating order.

    The first two rounds warm up.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 2):
        names = list(works) if turn % 2 == 0 else list(works)[::-1]
        for name in names:
            seen = milliseconds(works[name], device)
            if turn > 1:
                taken[name].append(seen)
    return {name: statistics.median(seen) for name, seen in taken.items()}


def peak_memory(work: Work, device: torch.device) -> float | None:
    """MiB that torch's allocator held at most, beyond what it held before; None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE


def machine(device: torch.device) -> dict[str, str]:
    """The device, and the versions that matter."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__}

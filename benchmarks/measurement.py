"""Time, memory and operations of a training step, on the CPU."""

import gc
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Work = Callable[[], None]
T = TypeVar("T")

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Time:
    """Medians in seconds: of the process's CPU time over all threads, and of the wall clock."""

    process: float
    wall: float


def interleaved(
    works: Mapping[str, Work], repeats: int, once: Collection[str] = ()
) -> dict[str, Time]:
    """Time every work `repeats` times, one after the other in turn, in alternating order.

    What slows the machine down for a while then slows all of them down. The caller warms up.

    Args:
        works: What is timed, by name.
        repeats: How many turns.
        once: Names that take part in the first turn only, because they take so long.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(repeats):
        names = [name for name in works if turn == 0 or name not in once]
        names = names if turn % 2 == 0 else names[::-1]
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
    arena = sys.modules.get("snncompile.kernels.arena")
    if arena is not None:  # or kernels would use memory again that nobody saw being taken
        arena.release()
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


def saved_bytes(run: Callable[[], Tensor], known: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass, beyond its output and what is alive anyway.

    Args:
        run: The forward pass; returns its output.
        known: What is alive anyway: parameters, inputs.
    """
    kept: dict[int, int] = {}
    holding: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        holding.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    for value in (output, *known):
        kept.pop(value.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def in_fresh_process(run: Callable[[], T]) -> T:
    """What `run` returns in a fork of this process, where nothing ran before that ran elsewhere.

    Call it before work on several threads: a fork has none of them.

    Raises:
        RuntimeError: It failed there; the message is what it said.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(run, sending))
    process.start()
    sending.close()
    try:
        worked, value = receiving.recv()
    except EOFError:
        worked, value = False, "the process ended without an answer"
    process.join()
    if not worked:
        raise RuntimeError(value)
    return value


def _answer(run: Callable[[], T], sending: "Connection[tuple[bool, T | str], None]") -> None:
    try:
        sending.send((True, run()))
    except Exception as error:
        sending.send((False, f"{type(error).__name__}: {error}"))


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

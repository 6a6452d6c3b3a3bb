"""Runs a compiled sweep over blocks of elements, on as many threads as torch may use.

Threads are started for a call and end with it: none is left behind to spin, and a process may fork
between calls. What a sweep computes does not depend on blocks and threads.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snncompile.kernels.preamble import CHUNK

Function = Callable[..., Any]

_LARGEST_BLOCK = 32 * CHUNK
"""Elements scanned together: their states fit into a second-level cache, and rows of memory this
long are prefetched well."""
_WORTH_A_THREAD = 2**17
"""Neuron-steps that take about as long as starting a thread."""


class Array(NamedTuple):
    """What a sweep reads or writes.

    Attributes:
        tensor: Its memory; for an array that blocks share, one row, or one row a worker.
        distance: Between two steps; 0 if there is one row for all.
        own: Whether every block has its own elements.
        rows: How many workers' rows there are.
    """

    tensor: Tensor
    distance: int = 0
    own: bool = True
    rows: int = 1


class Division(NamedTuple):
    """How a width is divided: blocks of elements, and workers that share them."""

    block: int
    blocks: int
    workers: int


def division(steps: int, width: int) -> Division:
    """Divide the elements of a step among the threads that torch may use now."""
    workers = worth(steps * width)
    rounds = -(-width // (_LARGEST_BLOCK * workers))
    chunks = -(-width // (CHUNK * workers * max(1, rounds)))
    block = CHUNK * max(1, chunks)
    blocks = -(-width // block)
    return Division(block, blocks, max(1, min(workers, blocks)))


def rows(count: int, width: int) -> Division:
    """Divide rows of some elements each, of which nothing is shared, among those threads."""
    return Division(1, count, max(1, min(count, worth(count * width))))


def worth(operations: int) -> int:
    """How many threads are worth their start for so many neuron-steps, or what takes as long."""
    return max(1, min(torch.get_num_threads(), operations // _WORTH_A_THREAD))


def run(
    function: Function, size: tuple[int, int], divided: Division, arrays: Sequence[Array]
) -> None:
    """Call a sweep for all blocks.

    Args:
        function: A compiled ``forward`` or ``backward``.
        size: The number of steps, T, and of elements of a step.
        divided: Blocks and workers.
        arrays: What it reads and writes, in its order.
    """
    block, blocks, workers = divided
    stride = (ctypes.c_int64 * len(arrays))(*(array.distance for array in arrays))
    own = (ctypes.c_int64 * len(arrays))(*(array.own for array in arrays))

    def work(worker: int) -> None:
        at = (ctypes.c_void_p * len(arrays))(*(_address(array, worker) for array in arrays))
        first, last = blocks * worker // workers, blocks * (worker + 1) // workers
        function((ctypes.c_int64 * 5)(*size, block, first, last), at, stride, own)

    each(work, workers)


def each(work: Callable[[int], object], workers: int) -> None:
    """Call a function for every worker from 0, each on a thread of its own."""
    others = [threading.Thread(target=work, args=(worker,)) for worker in range(1, workers)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()


def _address(array: Array, worker: int) -> int:
    row = worker if array.rows > 1 else 0
    tensor = array.tensor
    return tensor.data_ptr() + row * (tensor.numel() // array.rows) * tensor.element_size()

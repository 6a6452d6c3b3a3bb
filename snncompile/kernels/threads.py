"""Runs a compiled sweep over blocks of elements, on as many threads as torch may use.

Threads are started for a call and end with it: none is left behind to spin, and a process may fork
between calls. Blocks depend on the width alone, so results do not depend on the threads.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from snncompile.kernels.c import LARGEST_BLOCK

Function = Callable[..., Any]

_WORTH_A_THREAD = 2**17
"""Neuron-steps that take about as long as starting a thread."""


def block_size(width: int) -> int:
    """How many elements are scanned together, for steps of `width` elements."""
    return min(LARGEST_BLOCK, max(256, -(-width // 4 // 64) * 64))


def blocks(width: int) -> int:
    """How many blocks there are."""
    return -(-width // block_size(width))


def run(function: Function, steps: int, width: int, arrays: Sequence[tuple[Tensor, int]]) -> None:
    """Call a sweep for all blocks.

    Args:
        function: A compiled ``forward`` or ``backward``.
        steps: The number of steps, T.
        width: Elements of a step.
        arrays: What it reads and writes, each with the distance between two steps.
    """
    stride = (ctypes.c_int64 * len(arrays))(*(distance for _, distance in arrays))
    at = (ctypes.c_void_p * len(arrays))(*(tensor.data_ptr() for tensor, _ in arrays))
    count = blocks(width)
    workers = max(1, min(torch.get_num_threads(), count, steps * width // _WORTH_A_THREAD))

    def part(worker: int) -> None:
        first, last = count * worker // workers, count * (worker + 1) // workers
        function((ctypes.c_int64 * 5)(steps, width, block_size(width), first, last), stride, at)

    others = [threading.Thread(target=part, args=(worker,)) for worker in range(1, workers)]
    for thread in others:
        thread.start()
    part(0)
    for thread in others:
        thread.join()

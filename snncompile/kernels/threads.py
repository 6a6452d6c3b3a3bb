"""Runs a compiled sweep over blocks of elements, on as many threads as torch may use.

What a sweep computes does not depend on blocks and threads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snncompile.kernels import team
from snncompile.kernels.preamble import CHUNK
from snncompile.kernels.team import Argument, Function

_LARGEST_BLOCK = 32 * CHUNK
"""Elements scanned together: their states fit into a second-level cache, and rows of memory this
long are prefetched well."""
_WORTH_A_THREAD = 2**15
"""Neuron-steps that take somewhat longer than handing a part to another thread."""


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
    workers = _worth(steps * width)
    rounds = -(-width // (_LARGEST_BLOCK * workers))
    chunks = -(-width // (CHUNK * workers * max(1, rounds)))
    block = CHUNK * max(1, chunks)
    blocks = -(-width // block)
    return Division(block, blocks, max(1, min(workers, blocks)))


def rows(count: int, width: int) -> Division:
    """Divide rows of some elements each, of which nothing is shared, among those threads."""
    return Division(1, count, max(1, min(count, _worth(count * width))))


def _worth(operations: int) -> int:
    """How many threads are worth their start for so many neuron-steps, or what takes as long."""
    return max(1, min(torch.get_num_threads(), operations // _WORTH_A_THREAD))


def share(kernel: Function, total: int, given: Sequence[Argument], operations: int) -> None:
    """Call a kernel for parts of a range, one for every thread that is worth it.

    Args:
        kernel: Of C, as `snncompile.kernels.team` calls them.
        total: The end of the range, which begins at 0.
        given: Its arguments.
        operations: Neuron-steps, or what takes as long.

    Raises:
        MemoryError: It found no memory.
    """
    team.share(kernel, total, [given] * max(1, min(total, _worth(operations))))


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

    def given(worker: int) -> list[int]:
        found = [*size, divided.block]
        for array in arrays:
            found += (_address(array, worker), array.distance, array.own)
        return found

    team.share(function, divided.blocks, [given(worker) for worker in range(divided.workers)])


def _address(array: Array, worker: int) -> int:
    row = worker if array.rows > 1 else 0
    tensor = array.tensor
    return tensor.data_ptr() + row * (tensor.numel() // array.rows) * tensor.element_size()

"""Large results on memory that results before them lay on.

A training step asks for the same large memory at every call. The C library gives blocks of more
than 32 MiB back to the system as soon as they are freed, and smaller ones now and then; the system
hands them out again page by page, each cleared first, which takes longer than scanning what is
written there. Blocks are kept here instead, in order of their return, up to `IDLE` bytes. A block
is in use while the storage of the tensor on it lives, whoever holds that: autograd, a view, an
optimiser.

A network that runs parts of itself again to keep little memory has none wait: `keep`.

Blocks come from torch's allocator, whose reports of what is alive count those that wait, too.
"""

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from snncompile.kernels.pages import request_large_pages

LEAST = 2**20
"""Bytes from which memory is kept: the C library does well with less."""
IDLE = 2**29
"""Bytes that may wait to be used again."""
_SLACK = 1.25
"""How much larger than asked for a block may be."""


class Arena:
    """Blocks of memory, handed out as tensors.

    Attributes:
        most: Bytes that may wait to be used again.
    """

    def __init__(self) -> None:
        self.most = IDLE
        self._idle: list[Tensor] = []
        self._returned: deque[Tensor] = deque()
        self._lock = threading.Lock()

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A new tensor, whose memory holds anything.

        Args:
            shape: Its shape, of one element at least; it is contiguous.
            dtype: Of the tensor, on the CPU.
        """
        count = prod(shape)
        size = count * dtype.itemsize
        with self._lock:
            self._sort()
            block = self._fitting(size)
        if block is None:
            block = torch.empty(size, dtype=torch.uint8)
            request_large_pages(block)
        loan = block.numpy().data
        weakref.finalize(loan, self._give_back, block).atexit = False
        return torch.frombuffer(loan, dtype=dtype, count=count).view(*shape)

    def release(self) -> None:
        """Give the memory that nothing is on back to the C library."""
        with self._lock:
            self._sort()
            self._idle.clear()

    def idle(self) -> int:
        """Bytes that wait to be used again."""
        with self._lock:
            self._sort()
            return sum(map(len, self._idle))

    def _fitting(self, size: int) -> Tensor | None:
        """The smallest block for so many bytes, if there is one."""
        fitting = [i for i, b in enumerate(self._idle) if size <= len(b) <= _SLACK * size]
        if not fitting:
            return None
        return self._idle.pop(min(fitting, key=lambda i: len(self._idle[i])))

    def _give_back(self, block: Tensor) -> None:
        """Take a block whose tensor is gone; may be called at any moment, on any thread."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._sort()
            finally:
                self._lock.release()

    def _sort(self) -> None:
        """Add what was returned to what waits; what waited longest goes where that is too much."""
        while self._returned:
            self._idle.append(self._returned.popleft())
        excess = sum(map(len, self._idle)) - self.most
        while excess > 0:
            excess -= len(self._idle.pop(0))


_arena = Arena()


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new tensor for a kernel to write, contiguous, on the device of another.

    Args:
        like: Where; a fake tensor makes a fake one.
        shape: Its shape.
        dtype: Its dtype.
    """
    real = type(like) in (Tensor, torch.nn.Parameter) and like.is_cpu
    if not real or prod(shape) * dtype.itemsize < LEAST:
        return like.new_empty(tuple(shape), dtype=dtype)
    return _arena.tensor(shape, dtype)


def keep(most: int) -> None:
    """Set how many bytes may wait for results, from the next one that is given back."""
    _arena.most = most


def release() -> None:
    """Give the memory that waits for results back to the C library."""
    _arena.release()

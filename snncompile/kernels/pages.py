"""Asks the system for large pages where a kernel writes much fresh memory.

The first touch of a 4 KiB page costs more than scanning what is on it. Where the system gives large
pages on request only, the request makes new results several times cheaper. Smaller memory is left
alone: the C library hands it out again, and the request would cost more than it saves.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

_LARGE = 2**21
_ALWAYS_FRESH = 2**25
"""Bytes from which on glibc asks the system for every single allocation."""
_WANT_LARGE_PAGES = 14


def request_large_pages(tensor: Tensor) -> None:
    """Have a tensor that nothing was written to yet lie on large pages, if it is large itself.

    Args:
        tensor: Nothing happens if it is not on the CPU, or where the system knows no such request.
    """
    size = tensor.numel() * tensor.element_size()
    advise = _madvise()
    if size < _ALWAYS_FRESH or not tensor.is_cpu or advise is None:
        return
    start = tensor.data_ptr()
    first = -(-start // _LARGE) * _LARGE
    length = (start + size) // _LARGE * _LARGE - first
    advise(ctypes.c_void_p(first), ctypes.c_size_t(length), _WANT_LARGE_PAGES)


@functools.cache
def _madvise() -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None

"""Calls a kernel for the parts of a range at once, on the threads that torch itself computes with.

torch's operators run in a team of OpenMP's threads, which wait a little for the next operator. A
kernel that starts threads of its own pays for their start, and shares the processor with those that
wait. So kernels are handed to the same team, and leave no thread behind that torch has not.

A kernel of C is ``int kernel(int64_t first, int64_t last, const given_t *given)``: what it does to
the part [first, last) of its range, with arguments that are numbers and addresses. It returns 0, or
another number if it found no memory.
"""

import ctypes
import functools
import os
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from snncompile.kernels import build

Function: TypeAlias = Callable[..., Any]
Argument: TypeAlias = int | float | Tensor
"""A number, or what lies at an address; the caller keeps a tensor alive."""

GIVEN = """\
#include <stdint.h>
typedef union { int64_t n; double x; void *p; } given_t;
#define PARAMETERS int64_t first, int64_t last, const given_t *given
"""
"""What the C of a kernel begins with."""

_SOURCE = f"""{GIVEN}
typedef struct {{
  int (*kernel)(PARAMETERS);
  const given_t *given;
  int64_t arguments, total, parts, next, failed;
}} team_t;

/* What every thread does: take the next part, until there is none. */
void member(team_t *team) {{
  for (;;) {{
    const int64_t part = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED);
    if (part >= team->parts) return;
    const int64_t first = team->total * part / team->parts;
    const int64_t last = team->total * (part + 1) / team->parts;
    if (team->kernel(first, last, team->given + part * team->arguments))
      __atomic_store_n(&team->failed, 1, __ATOMIC_RELAXED);
  }}
}}
"""


class _Team(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("arguments", "total", "parts", "next", "failed")),
    ]


def share(kernel: Function, total: int, given: Sequence[Sequence[Argument]]) -> None:
    """Call a kernel for the parts of a range.

    Args:
        kernel: Of a library that `snncompile.kernels.build` compiled.
        total: The end of the range, which begins at 0.
        given: For every part its arguments.

    Raises:
        MemoryError: A kernel found no memory.
    """
    parts = len(given)
    words = [_word(argument) for arguments in given for argument in arguments]
    array = (ctypes.c_int64 * len(words))(*words)
    if parts == 1:
        failed = kernel(ctypes.c_int64(0), ctypes.c_int64(total), array)
    else:
        address = ctypes.cast(cast("Any", kernel), ctypes.c_void_p)
        sizes = (len(words) // parts, total, parts, 0, 0)
        team = _Team(address, ctypes.addressof(array), *sizes)
        _run(team)
        failed = team.failed
    if failed:
        raise MemoryError("a kernel found no memory")


def _word(argument: Argument) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, float):
        (word,) = struct.unpack("q", struct.pack("d", argument))
        return int(word)
    return argument


def _run(team: _Team) -> None:
    """Have a team's parts done, by as many threads as torch has or else one a part."""
    member, openmp = _member(), None if _forked else _openmp()
    if openmp is not None:
        openmp(member, ctypes.byref(team), torch.get_num_threads(), 0)
        return
    others = [
        threading.Thread(target=member, args=(ctypes.byref(team),)) for _ in range(1, team.parts)
    ]
    for thread in others:
        thread.start()
    member(ctypes.byref(team))
    for thread in others:
        thread.join()


@functools.cache
def _member() -> Any:  # noqa: ANN401
    member = build.library(_SOURCE).member
    member.restype = None
    return member


@functools.cache
def _openmp() -> Any:  # noqa: ANN401
    """The function of torch's OpenMP that calls another one on every thread; None without it.

    It is looked up in torch's library, so that it is found in the OpenMP which that one has loaded:
    a second one would have threads of its own.
    """
    file = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        openmp = ctypes.CDLL(str(file)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    openmp.restype = None
    return openmp


_forked = False
"""Whether this process is a copy of one that may have had a team: its threads were not copied."""


def _fork() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)

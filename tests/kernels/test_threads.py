"""Kernels share the machine: with other threads, other processes, and whoever sets torch's threads."""

# pyright: basic

import ctypes
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snncompile.ir import neurons
from snncompile.kernels import build, team
from tests.kernels.comparison import assert_agree, fused, operands
from tests.kernels.test_operators import LIF

LARGE = 2**18
"""Elements that are worth two threads over three steps."""


def trained(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes and the gradients of their sum."""
    (spikes, _), _ = fused(neurons.lif, current, (membrane,), LIF, (0,))
    by_current, by_membrane = torch.autograd.grad(spikes.sum(), (current, membrane))
    return spikes.detach(), by_current, by_membrane


def test_threads_that_call_one_kernel_at_once_get_their_own_results() -> None:
    given = [operands(1, 5, 3000) for _ in range(16)]
    expected = [trained(*each) for each in given]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: trained(*each), given * 4))

    for one, other in zip(found, expected * 4, strict=True):
        assert all(map(torch.equal, one, other))


def test_threads_that_meet_a_new_kernel_at_once_build_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**LIF, "threshold": 0.987654}
    current, membrane = operands(1, 5, 30, grad=False)
    built: list[str] = []
    real = build.library

    def counted(source: str) -> ctypes.CDLL:
        built.append(source)
        return real(source)

    monkeypatch.setattr(build, "library", counted)

    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(fused, neurons.lif, current, (membrane,), settings, (0,)) for _ in "abcd"
        ]
        spikes = [call.result()[0][0] for call in calls]

    assert len(built) == 1
    assert all(torch.equal(one, spikes[0]) for one in spikes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_torchs_team_as_many_threads_work_as_torch_may_use_and_none_stays(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "_openmp", lambda: None)

    assert len(_started(count, monkeypatch)) == count - 1


def test_with_a_team_no_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def openmp(member: Any, shared: Any, threads: int, _flags: int) -> None:
        asked.append(threads)
        member(shared)

    monkeypatch.setattr(team, "_openmp", lambda: openmp)

    assert not _started(3, monkeypatch)
    assert asked == [3]


def test_the_team_is_found_where_torch_has_gnus_openmp() -> None:
    linux = (Path(torch.__file__).parent / "lib" / "libtorch_cpu.so").exists()

    assert (team._openmp() is not None) == linux


def _started(count: int, monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that a kernel starts where torch may use so many; none is alive."""
    started: list[threading.Thread] = []

    class Counted(threading.Thread):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr(threading, "Thread", Counted)
    before, alive = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(count)
    try:
        fused(neurons.lif, *_split(operands(1, 3, LARGE, grad=False)), LIF, (0,))
    finally:
        torch.set_num_threads(before)

    assert not any(thread.is_alive() for thread in started)
    assert threading.active_count() == alive
    return started


def _split(values: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return values[0], tuple(values[1:])


def test_kernels_have_no_threads_but_torchs() -> None:
    script = (
        "import torch; torch.set_num_threads(2)\n"
        "from pathlib import Path\n"
        "from tests.kernels.test_threads import LARGE, trained\n"
        "count = lambda: len(list(Path('/proc/self/task').iterdir()))\n"
        "current = torch.rand(3, LARGE, requires_grad=True)\n"
        "membrane = torch.zeros(LARGE, requires_grad=True)\n"
        "current.sum().backward()\n"
        "before = count()\n"
        "for _ in range(5): trained(current, membrane)\n"
        "print(before, count())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip

    before, after = done.stdout.split()
    assert before == after


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_may_fork_after_a_kernel_ran() -> None:
    given = operands(1, 3, LARGE)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = trained(*given)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_same_in_child, args=(given, expected))
        child.start()
        child.join(60)
    finally:
        torch.set_num_threads(before)

    assert child.exitcode == 0


def _same_in_child(given: list[Tensor], expected: tuple[Tensor, ...]) -> None:
    current, membrane = given
    (spikes, _), _ = fused(neurons.lif, current.detach(), (membrane.detach(),), LIF, (0,))
    assert np.array_equal(spikes.numpy(), expected[0].numpy())  # torch's own may not fork


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1000, 3), (1000, 1030), (2, 10**6)], ids=str)
def test_long_and_wide_sequences(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    settings = {**LIF, "reset": neurons.Hard(), "threshold": 0.75}

    assert_agree(neurons.lif, operands(1, *shape, dtype=dtype), settings, (0, 1))

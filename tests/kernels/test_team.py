"""A range is done once, whoever does it; a kernel that finds no memory is heard."""

# pyright: basic

import ctypes
import threading

import pytest
import torch

from snncompile.kernels import build, team

_SOURCE = f"""{team.GIVEN}
int mark(PARAMETERS) {{
  int64_t *seen = given[0].p;
  for (int64_t i = first; i < last; i++) __atomic_fetch_add(&seen[i], given[1].n, __ATOMIC_RELAXED);
  return 0;
}}
int halve(PARAMETERS) {{
  double *x = given[0].p;
  for (int64_t i = first; i < last; i++) x[i] = given[1].x / 2;
  return 0;
}}
int fail(PARAMETERS) {{ return first <= given[0].n && given[0].n < last; }}
"""


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return build.library(_SOURCE)


@pytest.fixture(params=["team", "threads"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "threads":
        monkeypatch.setattr(team, "_openmp", lambda: None)


@pytest.mark.parametrize("total", [0, 1, 7, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 8, 1000])
def test_every_element_is_in_one_part(kernels: ctypes.CDLL, total: int, parts: int) -> None:
    seen = torch.zeros(max(1, total), dtype=torch.int64)

    team.share(kernels.mark, total, [(seen, 1)] * parts)

    assert seen.tolist()[:total] == [1] * total


def test_every_part_has_its_arguments(kernels: ctypes.CDLL) -> None:
    seen = torch.zeros(90, dtype=torch.int64)

    team.share(kernels.mark, 90, [(seen, part) for part in range(3)])

    assert seen.tolist() == [0] * 30 + [1] * 30 + [2] * 30


@pytest.mark.parametrize("parts", [1, 4])
def test_numbers_keep_their_bits(kernels: ctypes.CDLL, parts: int) -> None:
    x = torch.zeros(9, dtype=torch.float64)

    team.share(kernels.halve, 9, [(x, -0.1)] * parts)

    assert x.tolist() == [-0.05] * 9


@pytest.mark.parametrize("element", [0, 5, 9])
@pytest.mark.parametrize("parts", [1, 2, 10])
def test_one_part_without_memory_is_an_error(
    kernels: ctypes.CDLL, parts: int, element: int
) -> None:
    with pytest.raises(MemoryError, match="found no memory"):
        team.share(kernels.fail, 10, [(element,)] * parts)


def test_threads_may_share_at_once(kernels: ctypes.CDLL) -> None:
    seen = torch.zeros(1000, dtype=torch.int64)
    callers = [
        threading.Thread(target=team.share, args=(kernels.mark, 1000, [(seen, 1)] * 4))
        for _ in range(6)
    ]

    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert seen.tolist() == [6] * 1000

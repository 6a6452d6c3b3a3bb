"""Blocks of time side by side give what a loop gives, bit for bit, or say that they do not."""

# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor

from snncompile.runtime.blocks import Recurrence, Sweeps, blocks_for, run


def leaking(decay: float) -> Any:
    def step(rows: tuple[Tensor, ...], state: tuple[Tensor, ...]) -> None:
        current, out = rows
        torch.add(state[0] * decay, current, out=out)
        state[0].copy_(out)

    return step


def both(decay: float, steps: int, blocks: int, *, backwards: bool = False) -> Any:
    """Values and last states of a loop and of blocks, and how the blocks ran."""
    current, found = torch.randn(steps, 3, 5), []
    for count in (1, blocks):
        out, state = torch.zeros_like(current), torch.ones(3, 5)
        how = run(Recurrence(leaking(decay), (current, out), backwards), (state,), count)
        found.append((out, state))
    return *found, how


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("steps", "blocks"), [(400, 4), (403, 4), (1000, 9), (64, 1), (7, 7)])
def test_blocks_give_the_bits_of_a_loop(steps: int, blocks: int, backwards: bool) -> None:
    expected, found, how = both(0.5, steps, blocks, backwards=backwards)

    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert how.blocks == blocks
    assert blocks == 7 or how.sweeps == (2 if blocks > 1 else 1)


def test_what_never_forgets_is_not_certified_and_runs_as_a_loop() -> None:
    expected, found, how = both(1.0, 400, 8)

    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert how == Sweeps(8, 0)


def test_every_sweep_makes_one_more_block_right() -> None:
    expected, found, how = both(1.0, 90, 3)

    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert how == Sweeps(3, 4)


def test_a_state_that_is_not_a_number_is_never_certified() -> None:
    current = torch.full((100, 2), float("nan"))
    out = torch.zeros_like(current)

    how = run(Recurrence(leaking(0.5), (current, out)), (torch.zeros(2),), 4)

    assert out.isnan().all()
    assert how.sweeps == 0


@pytest.mark.parametrize(
    ("steps", "size", "keep", "expected"),
    [(1000, 16, 1.0, 1), (1000, 16, 1.5, 1), (1000, 16, 0.5, 21), (1000, 10**6, 0.5, 1), (30, 16, 0.5, 1), (40, 3, 0.0, 40)],
)  # fmt: skip
def test_how_many_blocks_follows_from_length_width_and_leak(
    steps: int, size: int, keep: float, expected: int
) -> None:
    assert blocks_for(steps, torch.zeros(size), keep) == expected

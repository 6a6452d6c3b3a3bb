"""A recurrence over time, its sequence cut into blocks that run side by side, exactly.

Where a block starts from is not known before the block ahead of it has ended, so it is guessed,
all blocks run at once, and what each block handed on becomes the next sweep's guess. A sweep that
reaches, in every block, the very state that the sweep before it had at the same step certifies
all values: from there on the two agree, so that each block started from where the one ahead of it
ended, and block by block the values are those of a loop over all steps. Nothing but the
recurrence itself is ever computed, in its own order of operations, so equality is that of bits.

Leaky states forget where they started, to the last bit after `memory` steps or so, and a second
sweep ends there. In the worst case one more block is right after each sweep.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = tuple[Tensor, ...]

_STRIDE = 8
"""How many steps lie between two comparisons of a sweep with the one before."""

_DISPATCH = {"cpu": 5e3, "cuda": 1e6}
"""How many elements a device computes in the time that it takes to start an operation."""


class Recurrence(NamedTuple):
    """A recurrence over sequences.

    Attributes:
        step: ``step(rows, state)`` reads and writes one row of every sequence, [...], and moves
            the state in place.
        sequences: What it reads and writes, each [T, ...].
        backwards: It runs from the last step to the first.
    """

    step: Callable[[tuple[Tensor, ...], State], None]
    sequences: tuple[Tensor, ...]
    backwards: bool = False


class Sweeps(NamedTuple):
    """How a recurrence ran.

    Attributes:
        blocks: Into how many blocks its steps were cut; 1 is a loop over all of them.
        sweeps: How many times the blocks ran until they were certified; 0 when they were not, and
            the loop ran after all.
    """

    blocks: int
    sweeps: int


def run(recurrence: Recurrence, state: State, blocks: int = 1, most: int = 4) -> Sweeps:
    """Run a recurrence over all steps.

    Args:
        recurrence: What to run; its sequences are written in place.
        state: The state before the first step, each [...]; left as it is after the last.
        blocks: How many blocks of steps run side by side.
        most: After how many sweeps without a certificate the steps run one by one.
    """
    if blocks > 1:
        swept = _in_blocks(recurrence, state, blocks, most)
        if swept is not None:
            return Sweeps(blocks, swept)
    for row in _rows(recurrence.sequences, recurrence.backwards):
        recurrence.step(row, state)
    return Sweeps(blocks, 0 if blocks > 1 else 1)


def blocks_for(steps: int, like: Tensor, keep: float) -> int:
    """Into how many blocks to cut so that the time is least, if a second sweep ends early.

    With m steps until a state has forgotten its start, B blocks of T / B steps of X elements take
    (T / B + m) (B X + c), where c elements is what starting an operation costs.

    Args:
        steps: T.
        like: A state.
        keep: The share of itself that a state keeps in one step, at most.
    """
    if not 0 < keep < 1:
        return 1 if keep else steps
    memory = -math.log(torch.finfo(like.dtype).eps) / -math.log(keep)
    start = _DISPATCH.get(like.device.type, _DISPATCH["cuda"])
    best = math.sqrt(steps * start / (memory * max(1, like.numel())))
    return max(1, min(int(best), int(steps / (2 * memory))))


def _in_blocks(recurrence: Recurrence, state: State, blocks: int, most: int) -> int | None:
    """Run in blocks; the number of sweeps, or None when the last of them certified nothing."""
    backwards = recurrence.backwards
    steps = len(recurrence.sequences[0])
    rest = steps % blocks
    start = tuple(value.clone() for value in state)
    first = tuple(s[steps - rest :] if backwards else s[:rest] for s in recurrence.sequences)
    for row in _rows(first, backwards):
        recurrence.step(row, start)
    others = (s[: steps - rest] if backwards else s[rest:] for s in recurrence.sequences)
    cut = tuple(torch.unflatten(s, 0, (blocks, -1)).transpose(0, 1) for s in others)
    rows = list(_rows(cut, backwards))
    seams = tuple(value.expand(blocks, *value.shape).clone() for value in start)
    marks: dict[int, State] = {}
    for sweep in range(1, most + 1):
        if _sweep(recurrence.step, rows, seams, marks):
            _leave(state, marks[len(rows)], backwards)
            return sweep
        seams = tuple(_moved(*pair, backwards) for pair in zip(start, seams, strict=True))
    return None


def _sweep(
    step: Callable[[tuple[Tensor, ...], State], None],
    rows: list[tuple[Tensor, ...]],
    state: State,
    marks: dict[int, State],
) -> bool:
    """Run all blocks once, until they meet the marks that the sweep before left, if they do."""
    for number, row in enumerate(rows, start=1):
        step(row, state)
        if number % _STRIDE and number < len(rows):
            continue
        held = marks.get(number)
        if held is not None and all(map(torch.equal, held, state)):
            return True
        marks[number] = tuple(value.clone() for value in state)
    return False


def _moved(start: Tensor, ends: Tensor, backwards: bool) -> Tensor:
    """Every block's first state: the last of the block ahead of it."""
    first = start.unsqueeze(0)
    return torch.cat((ends[1:], first) if backwards else (first, ends[:-1]))


def _leave(state: State, ends: State, backwards: bool) -> None:
    for value, end in zip(state, ends, strict=True):
        value.copy_(end[0] if backwards else end[-1])


def _rows(sequences: tuple[Tensor, ...], backwards: bool) -> Iterator[tuple[Tensor, ...]]:
    columns = (sequence.unbind(0) for sequence in sequences)
    rows = list(zip(*columns, strict=True))
    return reversed(rows) if backwards else iter(rows)

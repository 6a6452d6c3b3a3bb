"""Runs stages over a sequence, tile by tile or step by step, and gathers what they write."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from snncompile.errors import InvalidProgramError
from snncompile.ir.program import Output
from snncompile.runtime.chunk import Chunk, chunks
from snncompile.runtime.scan import per_step
from snncompile.runtime.sequence import Value, join, split, stack

Gathering: TypeAlias = Literal["stack", "last", "running_sum"]
"""How the values of the steps are put together while they come."""


@dataclass(frozen=True)
class Stage:
    """A region, compiled.

    Attributes:
        function: One step ``(root, [*reads, *invariants, *states])``, or one tile, which takes
            the number of steps before the reads. It empties the list.
        tiled: It is a tile.
        entire: It reads the whole sequence, whatever the tile.
        chunk: Some steps of it that run again together; None where a tile sees to that itself.
        reads: Names of the sequences it reads.
        invariants: Names of the values that are the same at every step.
        states: Names of its states.
        writes: For everything it writes, the name and how its values are gathered over time.
    """

    function: Callable[..., Any]
    tiled: bool
    entire: bool
    chunk: Chunk | None
    reads: tuple[str, ...]
    invariants: tuple[str, ...]
    states: tuple[str, ...]
    writes: tuple[tuple[str, tuple[Gathering, ...]], ...]


@dataclass
class Execution:
    """One call under way.

    Attributes:
        root: Where the program's modules live.
        steps: The number of steps, T.
        tile: How many of them run at once.
        chunk: How many single steps run again together; 0 where all values are kept.
        invariants: Values that are the same at every step, by name.
        states: The states, [N, ...], by name; as they are after the stages that have run.
        values: What was gathered over time, by name and way of gathering; a "stack" is
            [T, N, ...].
    """

    root: nn.Module
    steps: int
    tile: int
    chunk: int
    invariants: dict[str, Value]
    states: dict[str, Tensor]
    values: dict[tuple[str, Gathering], Value]

    def run(self, stage: Stage) -> None:
        """Run a stage over all steps; updates `states` and `values`."""
        fixed = tuple(self.invariants[name] for name in stage.invariants)
        states = [self.states.pop(name) for name in stage.states]
        gathered: dict[tuple[str, Gathering], list[Value]] = {}
        for written in self._written(stage, fixed, states):
            for (name, ways), value in zip(stage.writes, written, strict=True):
                for way in ways:
                    _gather(gathered.setdefault((name, way), []), way, value, tiled=stage.tiled)
            del written
        for key, parts in gathered.items():
            together = join if stage.tiled else stack
            self.values[key] = together(parts) if key[1] == "stack" else parts[0]
        self.states.update(zip(stage.states, states, strict=True))

    def output(self, name: str, output: Output, way: Gathering, steps: int) -> Tensor:
        """An output of the program, reduced over time, once all stages have run.

        Args:
            name: Its node.
            output: What becomes of it.
            way: How it was gathered.
            steps: Over how many steps.

        Raises:
            InvalidProgramError: The output is no tensor.
        """
        value = self.values[name, way]
        if way == "running_sum" and output.reduce == "mean" and isinstance(value, Tensor):
            return value / steps
        return _reduced(value, output, way)

    def _written(
        self, stage: Stage, fixed: tuple[Value, ...], states: list[Tensor]
    ) -> Iterator[tuple[Value, ...]]:
        """What a stage writes, piece by piece; keeps `states` up to date."""
        if stage.chunk is not None and self.chunk:
            sequences = tuple(self.values[name, "stack"] for name in stage.reads)
            for length, pieces in chunks(sequences, self.steps, self.chunk):
                box = [*pieces, *fixed, *states]
                states.clear()
                steps, after = stage.chunk(self.root, length, box)
                states += after
                del after
                yield from steps
            return
        for given in self._pieces(stage):
            box = [*given, *fixed, *states]
            states.clear()
            written, after = stage.function(self.root, box)
            states += after
            del after
            yield written

    def _pieces(self, stage: Stage) -> Iterator[tuple[Value, ...]]:
        """What a stage's function is given, piece by piece: a step, or a tile and its length."""
        sequences = tuple(self.values[name, "stack"] for name in stage.reads)
        if not stage.tiled:
            yield from per_step(sequences, self.steps)
            return
        tile = self.steps if stage.entire else min(self.tile, self.steps)
        columns = [list(split(sequence, self.steps, tile)) for sequence in sequences]
        for i, start in enumerate(range(0, self.steps, tile)):
            length = min(tile, self.steps - start)
            yield (length, *(column[i] for column in columns))


def _gather(parts: list[Value], way: Gathering, value: Value, *, tiled: bool) -> None:
    """Add the values of one more step, or of one more tile, to what was gathered."""
    if tiled and isinstance(value, Tensor) and way != "stack":
        value = value[-1] if way == "last" else value.sum(0)
    if way == "stack" or not parts:
        parts.append(value)
    elif way == "last":
        parts[0] = value
    elif isinstance(value, Tensor) and isinstance(parts[0], Tensor):
        parts[0] = parts[0] + value


def gathering(output: Output, *, in_tiles: bool) -> Gathering:
    """How the values of an output are gathered; what needs them all at once is stacked.

    Args:
        output: The output.
        in_tiles: Tiles of several steps follow each other, each of which can be summed up.
    """
    if output.reduce in ("last", "running_sum"):
        return output.reduce
    return "running_sum" if in_tiles and output.reduce in ("sum", "mean") else "stack"


def _reduced(gathered: Value, output: Output, way: Gathering) -> Tensor:
    """What the model sees of an output, from its gathered values."""
    if not isinstance(gathered, Tensor):
        raise InvalidProgramError(f"output {output.name} is no tensor; return a tensor every step")
    if way != "stack":
        return gathered
    match output.reduce:
        case "sum":
            return torch.sum(gathered, 0)
        case "mean":
            return _mean(gathered)
        case "max":
            return torch.amax(gathered, 0)
        case _:
            return gathered.movedim(0, output.axis).contiguous() if output.axis else gathered


def _mean(gathered: Tensor) -> Tensor:
    """The mean over time, as torch computes it on each device.

    On the CPU that is a sum, divided; of half-precision numbers one that is rounded once. Written
    so, its gradient is one step's, expanded, and not a sequence in memory; the bits are the same.
    """
    divided = gathered.is_cpu and gathered.dtype in (torch.float32, torch.float64)
    return torch.sum(gathered, 0) / len(gathered) if divided else torch.mean(gathered, 0)

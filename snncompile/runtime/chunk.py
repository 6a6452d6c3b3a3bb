"""Single steps that run again together in the backward pass, from the states before them."""

from collections.abc import Callable, Iterable, Sequence
from math import isqrt
from typing import Any

from torch import Tensor, nn

from snncompile.ir.program import Program
from snncompile.memory.levels import levels
from snncompile.runtime.again import PackedValues, learning_modules, run_again
from snncompile.runtime.region import Region
from snncompile.runtime.scan import per_step
from snncompile.runtime.sequence import Value, split, stack


class Chunk:
    """Some steps of a region, one after the other, as one part.

    Args:
        program: The program.
        region: What to run.
        step: One step of it, compiled.
    """

    def __init__(self, program: Program, region: Region, step: Callable[..., Any]) -> None:
        self.step = step
        known = levels(program)
        self.levels = {node.name: known[node] for node in region.reads if node in known}
        self.reads = tuple(node.name for node in region.reads)
        self.fixed = len(region.invariants)
        nodes = [node for component in region.components for node in component.nodes]
        self.learning = learning_modules(program, nodes)

    def __call__(self, root: nn.Module, steps: int, box: list[Any]) -> Any:  # noqa: ANN401
        """Run some steps.

        Args:
            root: Where modules live.
            steps: How many.
            box: The sequences of these steps, then invariants and states; emptied.

        Returns:
            What every step wrote, and the states after the last.
        """
        kept = PackedValues(self.levels).of(self.reads, dict(zip(self.reads, box, strict=False)))
        operands = [steps, *box]
        box.clear()
        return run_again(self._run, root, operands, kept, self.learning)

    def _run(self, root: nn.Module, box: list[Any]) -> Any:  # noqa: ANN401
        steps, *given = box
        box.clear()
        count = len(self.reads)
        sequences, fixed = tuple(given[:count]), given[count : count + self.fixed]
        states = given[count + self.fixed :]
        given.clear()
        written: list[Any] = []
        for values in per_step(sequences, steps):
            inner = [*values, *fixed, *states]
            states.clear()
            results, after = self.step(root, inner)
            written.append(results)
            states += after
            del after
        return written, states


def chunks(sequences: Sequence[Value], steps: int, length: int) -> Iterable[tuple[int, list[Any]]]:
    """Sequences in chunks of steps: how many, and what of every sequence."""
    columns = [list(split(sequence, steps, length)) for sequence in sequences]
    for i, start in enumerate(range(0, steps, length)):
        yield min(length, steps - start), [column[i] for column in columns]


class AnchoredLoop:
    """A part of a step with feedback, over a tile: its states are kept every few steps.

    Takes what `snncompile.runtime.scan.loop` takes, but for the step.

    Args:
        chunk: Some steps of the part.
    """

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.__name__ = "anchored_loop"

    def __call__(
        self,
        root: nn.Module,
        steps: int,
        *,
        sequences: tuple[Value, ...],
        invariants: tuple[Value, ...],
        states: tuple[Tensor, ...],
    ) -> tuple[tuple[Value, ...], tuple[Tensor, ...]]:
        """Run the part once a time step; see `snncompile.runtime.scan.loop`."""
        written: list[tuple[Value, ...]] = []
        held = list(states)
        for length, given in chunks(sequences, steps, max(1, isqrt(steps))):
            results, held = self.chunk(root, length, [*given, *invariants, *held])
            written += results
        return tuple(stack(values) for values in zip(*written, strict=True)), tuple(held)

"""The schedule: how many steps of a program run layer by layer before the next ones start.

"steps" is the plain loop over time, a tile of one step. "layers" runs every layer over all steps
before the next layer, a tile of all steps. In between, the states go from tile to tile. The result
is the same; memory and speed differ.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from snncompile.errors import InputError
from snncompile.ir.program import Program, Segment
from snncompile.kernels import arena
from snncompile.kernels.tracing import while_tracing
from snncompile.memory.choice import CallSize, chunk_for, segments_for, tile_for
from snncompile.memory.report import KeptBySegment, kept_in
from snncompile.runtime.cost import batch_axis, bytes_per_sample
from snncompile.runtime.observe import observable, operands, results
from snncompile.runtime.online import (
    Call,
    Results,
    run,
    run_each_step,
    run_last_step,
    run_random_step,
    runs_again,
    single,
)
from snncompile.runtime.plan import Pieces, Plan, make_plan

ScheduleName: TypeAlias = Literal["steps", "layers", "auto"]

TILE_BYTES = 256 * 2**20
"""What "auto" lets the values of one tile take: longer tiles are faster, shorter take less."""

VALUE_BYTES = 32 * 2**20 - 2**16
"""What "auto" lets one value of a tile take: larger ones lie on new pages every time in torch."""


@dataclass
class Recording:
    """What every neuron received and emitted, filled by `Runner.run`.

    Attributes:
        inputs: By neuron node: its current, then every state before the step, each [T, N, ...].
        outputs: By neuron node: its output, then every state after the step, each [T, N, ...].
    """

    inputs: dict[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])
    outputs: dict[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])


class Runner:
    """Runs a program under a schedule.

    Args:
        program: The program; it must not change afterwards, its modules may.
        schedule: "steps", "layers", or a number of steps per tile. "auto" takes tiles of one
            length, the longest whose values fit into `TILE_BYTES` and each into `VALUE_BYTES`:
            the whole sequence when it does, one step when not even two do. The whole sequence
            too where a module reads it at once: between tiles it would have to be put together.

    Raises:
        InputError: The schedule is none of these.
    """

    def __init__(self, program: Program, schedule: ScheduleName | int = "auto") -> None:
        named = isinstance(schedule, str) and schedule in ("steps", "layers", "auto")
        if not named and not (type(schedule) is int and schedule >= 1):
            raise InputError(
                f"the schedule {schedule!r} is unknown; use 'steps', 'layers', 'auto' or a number "
                "of steps of at least 1"
            )
        self.program = program
        self.schedule: ScheduleName | int = schedule
        self._plans: dict[str, Plan] = {}
        self._costs: tuple[tuple[float, float], int | None, int] | None = None
        self._lengths: dict[tuple[str, int], int] = {}
        self._chosen: dict[tuple[int, int, int], tuple[Segment, ...]] = {}

    def run(
        self,
        inputs: tuple[Tensor, ...],
        states: tuple[Tensor, ...],
        steps: int,
        record: Recording | None = None,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run all time steps.

        Args:
            inputs: One for each of the program's inputs: sequences [T, N, ...], and statics.
            states: One for each of its states, before the first step, [N, ...].
            steps: The number of steps, T.
            record: Filled with what the neurons received and emitted, when given.

        Returns:
            The outputs, reduced over time as the program says, and the states after the last step.

        Raises:
            InputError: There is no step to run.
            InvalidProgramError: A module that reads the whole sequence takes part in feedback.
        """
        if steps < 1:
            raise InputError(f"a program runs at least 1 time step, not {steps}")
        if not torch.compiler.is_compiling():
            arena.keep(arena.IDLE if self.program.recompute is None else 0)
        tile = self._tile(inputs, steps)
        size = self._size(inputs, steps, tile)
        plan = self._plan(steps, tile, size, observed=record is not None)
        chunk = self._chunk(steps) if size and tile == 1 else 0
        call = Call(self.program, plan, inputs, list(states), steps, tile, chunk)
        if record is not None:
            values, states = call.results(call.execute())
            count = len(self.program.outputs)
            _fill(record, self.program, list(values[count:]))
            return values[:count], states
        return self._way(call)(call)

    def run_step(self, inputs: tuple[Tensor, ...], states: list[Tensor], step: int) -> Results:
        """Run one time step.

        Args:
            inputs: As `run` takes them, for all steps.
            states: The states before the step; taken out of the list.
            step: Its number, from 0.

        Returns:
            The outputs of the step, not reduced over time, and the states after it.
        """
        plan = self._plans[self._planned(False, False, False, None)]
        call = Call(self.program, plan, inputs, [], 0, 1).between(step, step + 1, states)
        return single(plan, call.execute())

    def kept(self, inputs: tuple[Tensor, ...], steps: int) -> tuple[KeptBySegment, ...]:
        """What a training step keeps for its backward pass.

        Args:
            inputs: As `run` takes them.
            steps: The number of steps, T.
        """
        size = CallSize(steps, self._samples(inputs), self._tile(inputs, steps))
        return kept_in(self.program, size)

    def _way(self, call: Call) -> Callable[[Call], Results]:
        """How to run a call, by where its gradient goes."""
        if self.program.gradient == "through-time" or not torch.is_grad_enabled():
            return run
        if self.program.gradient == "last-step":
            return run_last_step
        if self.program.gradient == "random-step":
            return run_random_step if self.program.root.training else run
        alone = call.tile == 1 < call.steps and not torch.compiler.is_compiling()
        return run_each_step if alone and runs_again(call) else run

    def _tile(self, inputs: tuple[Tensor, ...], steps: int) -> int:
        if self.schedule == "steps":
            return 1
        if self.schedule == "layers":
            return steps
        if isinstance(self.schedule, int):
            return min(self.schedule, steps)
        if self.program.recompute is not None and torch.is_grad_enabled():
            return self._tile_again(steps)
        if self.program.whole:
            return steps
        samples = self._samples(inputs)
        total, largest = (per_sample * samples + 1 for per_sample in self._cost()[0])
        longest = max(1, min(steps, int(min(TILE_BYTES / total, VALUE_BYTES / largest))))
        tiles = -(-steps // longest)
        return -(-steps // tiles)

    def _samples(self, inputs: tuple[Tensor, ...]) -> int:
        """The batch size of a call."""
        _, position, axis = self._cost()
        return 1 if position is None else inputs[position].shape[axis]

    def _size(
        self, inputs: tuple[Tensor, ...], steps: int, tile: int
    ) -> tuple[int, int, int] | None:
        """The size of a call whose backward pass runs something again; None for others.

        Without a budget only whether all steps are one tile matters.
        """
        asked = self.program.recompute
        if asked is None or not torch.is_grad_enabled():
            return None
        if asked.budget is None:
            return (2, 1, 2) if tile == steps else (2, 1, 1)
        return steps, self._samples(inputs), tile

    @while_tracing
    def _chunk(self, steps: int) -> int:
        """How many single steps run again together."""
        if ("chunk", steps) not in self._lengths:
            self._lengths["chunk", steps] = chunk_for(self.program, steps)
        return self._lengths["chunk", steps]

    @while_tracing
    def _tile_again(self, steps: int) -> int:
        """How many steps run at once where segments run again."""
        if ("tile", steps) not in self._lengths:
            self._lengths["tile", steps] = tile_for(self.program, steps)
        return self._lengths["tile", steps]

    @while_tracing
    def _cost(self) -> tuple[tuple[float, float], int | None, int]:
        """Bytes a sample takes a step, all and at most; which axis of which input counts them."""
        if self._costs is None:
            self._costs = (bytes_per_sample(self.program), *batch_axis(self.program))
        return self._costs

    @while_tracing
    def _planned(
        self, tiled: bool, entire: bool, recorded: bool, size: tuple[int, int, int] | None
    ) -> str:
        """Make the plan for the mode that the modules are in, if need be; returns its key."""
        modules = [self.program.module(n) for n in self.program.step.find_nodes(op="call_module")]
        segments = () if size is None else self._segments(size)
        trained = [int(module.training) for module in modules]
        key = f"{tiled} {recorded} {entire} {hash(segments)} {trained}"
        if key not in self._plans:
            program = observable(self.program) if recorded else self.program
            self._plans[key] = make_plan(program, Pieces(tiled, entire, segments))
        return key

    def _plan(
        self, steps: int, tile: int, size: tuple[int, int, int] | None, *, observed: bool
    ) -> Plan:
        """The plan of a call; by branches, because torch.compile may hold the sizes as symbols."""
        if tile == 1:
            return self._plans[self._planned(False, False, observed, size)]
        if tile == steps:
            return self._plans[self._planned(True, True, observed, size)]
        return self._plans[self._planned(True, False, observed, size)]

    def _segments(self, size: tuple[int, int, int]) -> tuple[Segment, ...]:
        """What runs again in a call of that size."""
        if size not in self._chosen:
            self._chosen[size] = segments_for(self.program, CallSize(*size))
        return self._chosen[size]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Runner":
        """A runner of a copied program; structures of calls and results are values, so shared."""
        for value in (self.program.arguments, self.program.result):
            memo[id(value)] = value
        return Runner(copy.deepcopy(self.program, memo), self.schedule)


def _fill(record: Recording, program: Program, values: list[Tensor]) -> None:
    """Sort the further outputs of an observable program by neuron."""
    waiting = iter(values)
    for neuron in program.neurons():
        record.inputs[neuron.name] = tuple(next(waiting) for _ in operands(neuron))
        record.outputs[neuron.name] = tuple(next(waiting) for _ in range(results(neuron)))

"""A captured and rewritten program that is ready for calls of one mode and kind of input."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snncompile.errors import InputError
from snncompile.ir.program import Program
from snncompile.memory.report import KeptBySegment
from snncompile.runtime.code import compile_graph
from snncompile.runtime.schedule import Recording, Runner, ScheduleName


@dataclass
class Compiled:
    """A program for one mode and one kind of input, ready to run.

    Attributes:
        mode: Whether each module of the original trained when it was captured.
        shapes: The sizes that calls must have; None where any size will do.
        batch: Which axis of which input, time first, is the batch.
        state_dtypes: The dtype of every state as it was captured.
    """

    program: Program
    runner: Runner
    mode: tuple[bool, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    batch: tuple[int, int] | None
    state_dtypes: tuple[torch.dtype, ...]

    def fits(self, mode: tuple[bool, ...], spec: pytree.TreeSpec, leaves: list[Any]) -> bool:
        """Whether a call with these leaves is one that the program was captured for."""
        arguments = self.program.arguments
        if mode != self.mode or spec != arguments.spec:
            return False
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) != (i in arguments.tensors):
                return False
            if not isinstance(leaf, Tensor) and leaf != arguments.constants[i]:
                return False
        tensors = [leaves[i].shape for i in arguments.tensors]
        return all(_agree(s, shape) for s, shape in zip(self.shapes, tensors, strict=True))

    def run(
        self, leaves: list[Any], hidden: dict[str, Tensor], record: Recording | None = None
    ) -> Any:  # noqa: ANN401
        """What a call returns.

        Args:
            leaves: The leaves of its arguments.
            hidden: The states that survive calls, by label; updated.
            record: Filled with what the neurons received and emitted, when given.
        """
        inputs, steps, computed = self._given(leaves)
        states, extras = self._initial(inputs, computed, hidden)
        outputs, states = self.runner.run(inputs, states, steps, record)
        self._keep(states, hidden)
        return self._result(outputs, extras)

    def kept(self, leaves: list[Any]) -> tuple[KeptBySegment, ...]:
        """What a call keeps for its backward pass.

        Args:
            leaves: The leaves of its arguments.
        """
        inputs, steps, _ = self._given(leaves)
        return self.runner.kept(inputs, steps)

    def steps(self, leaves: list[Any], hidden: dict[str, Tensor]) -> Iterator[Any]:
        """What a call gives step by step; weights may change in between.

        Args:
            leaves: The leaves of its arguments.
            hidden: The states that survive calls, by label; updated after every step.

        Yields:
            The result of every step.
        """
        random = torch.get_rng_state()
        inputs, steps, computed = self._given(leaves)
        states, extras = self._initial(inputs, computed, hidden)
        held = list(states)
        del states
        alone = self.program.gradient in ("each-step", "random-step")
        for step in range(steps):
            if step and torch.is_grad_enabled() and self.program.prologue is not None:
                with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
                    torch.set_rng_state(random)
                    inputs, _, computed = self._given(leaves)
                extras = self._initial(inputs, computed, {})[1]
            self._release(hidden)
            outputs, after = self.runner.run_step(inputs, held, step)
            held = [state.detach() if alone else state for state in after]
            del after
            self._keep(held, hidden)
            yield self._result(outputs, extras)
            del outputs

    def _given(self, leaves: list[Any]) -> tuple[tuple[Tensor, ...], int, tuple[Tensor, ...]]:
        """The inputs, time first, the number of steps, and what else the prologue computes."""
        program = self.program
        _check_arguments(program, leaves)
        values: tuple[Any, ...] = tuple(leaves[i] for i in program.arguments.tensors)
        if program.prologue is not None:
            values = compile_graph(program, program.prologue)(program.root, *values)
        count = len(program.inputs)
        return (*_time_first(program, values[:count]), values[count:])

    def _initial(
        self, inputs: tuple[Tensor, ...], computed: tuple[Tensor, ...], hidden: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The states before the first step, and what the prologue hands to the epilogue."""
        waiting = list(computed)
        states: list[Tensor] = []
        batch = 1 if self.batch is None else inputs[self.batch[0]].shape[self.batch[1]]
        for state, seen in zip(self.program.states, self.state_dtypes, strict=True):
            shape = tuple(size if isinstance(size, int) else batch for size in state.shape)
            if isinstance(state.initial, str):
                states.append(waiting.pop(0).expand(shape))
                continue
            held = hidden.get(state.label) if state.carried else None
            if held is not None and held.shape == shape:
                states.append(held)
                continue
            dtype = _dtype(seen, inputs)
            number = torch.full((), state.initial, dtype=dtype, device=inputs[0].device)
            states.append(number.expand(shape))
        return tuple(states), tuple(waiting)

    def _release(self, hidden: dict[str, Tensor]) -> None:
        """Forget states that a step is about to replace, so that it can free them."""
        for state in self.program.states:
            hidden.pop(state.label, None)

    def _keep(self, states: Iterable[Tensor], hidden: dict[str, Tensor]) -> None:
        for state, value in zip(self.program.states, states, strict=True):
            if state.carried:
                hidden[state.label] = value

    def _result(self, outputs: tuple[Tensor, ...], extras: tuple[Tensor, ...]) -> Any:  # noqa: ANN401
        program = self.program
        if program.epilogue is not None:
            outputs = compile_graph(program, program.epilogue)(program.root, *outputs, *extras)
        return pytree.tree_unflatten(list(outputs), program.result)


def ready(
    program: Program, schedule: ScheduleName | int, mode: tuple[bool, ...], leaves: list[Any]
) -> Compiled:
    """A program ready to run.

    Args:
        program: The program.
        schedule: How it runs.
        mode: Whether each module of the original trained when it was captured.
        leaves: The leaves of the arguments of the call it was captured from.
    """
    shapes = _shapes(program)
    if program.one_length:
        shapes = tuple(tuple(leaves[i].shape) for i in program.arguments.tensors)
    dtypes = (program.placeholder(state.name).meta["val"].dtype for state in program.states)
    return Compiled(
        program, Runner(program, schedule), mode, shapes, _batch(program), tuple(dtypes)
    )


def _agree(expected: tuple[int | None, ...], shape: torch.Size) -> bool:
    return len(expected) == len(shape) and all(
        want is None or want == have for want, have in zip(expected, shape, strict=True)
    )


def _check_arguments(program: Program, leaves: list[Any]) -> None:
    """A pass may have given the program inputs that the model does not have."""
    if len(leaves) != len(program.arguments.constants):
        names = ", ".join(spec.name for spec in program.inputs)
        raise InputError(
            f"the rewritten network reads {names}, which are other arguments than those given; "
            "snncompile.text(module.program) shows their shapes"
        )


def _time_first(program: Program, values: Iterable[Tensor]) -> tuple[tuple[Tensor, ...], int]:
    """Sequences with time as their first axis and `program.time` steps, and the number of steps."""
    inputs = [
        value.movedim(spec.axis, 0) if spec.kind == "sequence" else value
        for spec, value in zip(program.inputs, values, strict=True)
    ]
    sequences = [spec.kind == "sequence" for spec in program.inputs]
    lengths = [v.shape[0] for v, timed in zip(inputs, sequences, strict=True) if timed]
    steps = program.time if program.time is not None else [*lengths, 1][0]
    if any(n < steps if program.time is not None else n != steps for n in lengths):
        raise InputError(f"the model runs {steps} time steps, but its inputs have {lengths}")
    cut = [v[:steps] if timed else v for v, timed in zip(inputs, sequences, strict=True)]
    return tuple(cut), steps


def _batch(program: Program) -> tuple[int, int] | None:
    """Which axis of which input, time first, is the batch."""
    for i, spec in enumerate(program.inputs):
        sizes = program.placeholder(spec.name).meta["val"].shape
        for axis, size in enumerate(sizes):
            if not isinstance(size, int):
                return i, axis + (spec.kind == "sequence")
    return None


def _dtype(seen: torch.dtype, inputs: tuple[Tensor, ...]) -> torch.dtype:
    """A state has the inputs' precision, so that ``.double()`` after the capture is seen."""
    floating = [value.dtype for value in inputs if value.is_floating_point()]
    return floating[0] if seen.is_floating_point and floating else seen


def _shapes(program: Program) -> tuple[tuple[int | None, ...], ...]:
    """The sizes that calls must have; None where any size will do."""
    if program.prologue is not None:
        nodes = list(program.prologue.find_nodes(op="placeholder"))
        return tuple(_known(node.meta["val"].shape) for node in nodes)
    shapes: list[tuple[int | None, ...]] = []
    for spec, node in zip(program.inputs, program.placeholders(), strict=False):
        sizes = list(_known(node.meta["val"].shape))
        if spec.kind == "sequence":
            sizes.insert(spec.axis, None)
        shapes.append(tuple(sizes))
    return tuple(shapes)


def _known(shape: Sequence[int | torch.SymInt]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
"""A network that runs from its exported file: step by step, or over whole sequences, with state.

States lie in two arrays each that take turns: a step reads one and writes the other.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike

from snncompile.errors import InputError
from snncompile.onnx_file import AFTER, Array, OnnxFile, OverTime, Slot, load

_ROWS = 64
_SHORTEST = 8
"""A long sequence runs in pieces of about so many rows, steps times samples, and no fewer steps."""


class Deployed:
    """A network loaded from a file of `snncompile.export`; onnxruntime runs it, without torch.

    It remembers its states from call to call until `reset`. Streams made by `stream` share the
    loaded file and nothing else, so each can run in a thread of its own.

    Args:
        path: The file.
        threads: How many threads one call may use; onnxruntime decides if None.

    Raises:
        InputError: There is no such file, onnxruntime refuses it, or something else wrote it.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self._file = load(path, threads)
        self._memory: _Memory | None = None

    @property
    def form(self) -> str:
        """The form of the file: "step", "sequence" or "unrolled"."""
        return self._file.form

    @property
    def about(self) -> dict[str, str]:
        """The metadata of the file: version, weights, exactness class, hash of the weights, ..."""
        return dict(self._file.about)

    @property
    def inputs(self) -> tuple[Slot, ...]:
        """What `step` and `run` take, in order."""
        return self._file.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in the order in which `step` and `run` return them."""
        return tuple(output.name for output in self._file.outputs)

    @property
    def states(self) -> dict[str, Array]:
        """The states by label, each [N, ...]; empty before the first call and after a reset."""
        if self._memory is None:
            return {}
        labels = (state.label for state in self._file.states)
        return dict(zip(labels, self._memory.read(), strict=True))

    def reset(self) -> None:
        """Forget the states; the next call may have another batch size."""
        self._memory = None

    def stream(self) -> Self:
        """Another stream over the same loaded file, with states of its own."""
        fresh = copy.copy(self)
        fresh.reset()
        return fresh

    def step(self, *inputs: ArrayLike) -> Any:  # noqa: ANN401
        """Run one time step.

        Args:
            inputs: The inputs of the step, [N, ...] each.

        Returns:
            The output [N, ...]; a tuple of them if there are several.

        Raises:
            InputError: The file holds whole sequences, a shape does not fit, or the batch size is
                not that of the steps before.
        """
        if self.form != "step":
            raise InputError(
                f"{self._file.path} takes whole sequences; call run, or export with form='step'"
            )
        return _single(self._call(inputs))

    def run(self, *inputs: ArrayLike) -> Any:  # noqa: ANN401
        """Run a sequence, from the present states on.

        Args:
            inputs: What the model takes, [T, N, ...] for a sequence.

        Returns:
            What the model returns: an array, or a tuple of them.

        Raises:
            InputError: A shape does not fit, the batch size is not that of the calls before, or a
                step file lacks what the model computes after its steps.
        """
        if self.form == "step":
            return _single(self._run_steps(inputs))
        lengths = self._lengths(inputs)
        pieces = self._pieces(inputs, max(lengths)) if lengths else [inputs]
        results = [self._call(piece) for piece in pieces]
        if len(results) == 1:
            return _single(results[0])
        joined = zip(self._file.outputs, zip(*results, strict=True), strict=True)
        return _single([np.concatenate(parts, output.axis) for output, parts in joined])

    def _call(self, inputs: tuple[ArrayLike, ...]) -> list[Array]:
        if self._memory is not None and self._memory.takes(inputs):
            return self._memory.call(inputs)
        values = self._taken(inputs)
        batch = self._file.batch_of(values)
        if self._memory is None:
            self._memory = _Memory(self._file, batch)
        if batch != self._memory.batch:
            raise InputError(
                f"the batch size is {batch}, and was {self._memory.batch} before; call reset() "
                "first, or run another stream()"
            )
        return self._memory.call(values)

    def _taken(self, inputs: tuple[ArrayLike, ...]) -> list[Array]:
        slots = self._file.inputs
        if len(inputs) != len(slots):
            names = ", ".join(slot.name for slot in slots)
            raise InputError(f"{len(inputs)} inputs were given; the file takes {names}")
        return [slot.taken(value) for slot, value in zip(slots, inputs, strict=True)]

    def _lengths(self, inputs: tuple[ArrayLike, ...]) -> set[int]:
        """The numbers of steps that sequences have."""
        pairs = zip(self._file.axes, inputs, strict=False)
        shapes = [(axis, np.shape(value)) for axis, value in pairs if axis is not None]
        return {shape[axis] for axis, shape in shapes if -len(shape) <= axis < len(shape)}

    def _run_steps(self, inputs: tuple[ArrayLike, ...]) -> list[Array]:
        if AFTER in self._file.about:
            raise InputError(
                f"{self._file.path} is one step, and the model computes its result after the "
                "steps; call step, or export with form='sequence'"
            )
        lengths = self._lengths(inputs)
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"sequences have {sorted(lengths)} steps; give at least one step")
        made = [self._call(self._cut(inputs, t)) for t in range(lengths.pop())]
        pairs = zip(self._file.outputs, zip(*made, strict=True), strict=True)
        return [_over_time(output, values) for output, values in pairs]

    def _cut(self, inputs: tuple[ArrayLike, ...], at: int | slice) -> tuple[ArrayLike, ...]:
        """One step of every sequence, or several."""
        pairs = zip(self._file.axes, inputs, strict=False)
        return tuple(v if axis is None else _taken_at(v, axis, at) for axis, v in pairs)

    def _pieces(self, inputs: tuple[ArrayLike, ...], steps: int) -> list[tuple[ArrayLike, ...]]:
        """A long sequence in pieces whose activations stay in the processor's caches."""
        batch = self._file.batch_of(self._taken(inputs))
        length = max(_SHORTEST, _ROWS // max(batch, 1))
        if not self._file.divisible or steps <= length:
            return [inputs]
        return [
            self._cut(inputs, slice(start, start + length)) for start in range(0, steps, length)
        ]


def _taken_at(value: ArrayLike, axis: int, at: int | slice) -> Array:
    array: Array = np.asarray(value)
    return array[(slice(None),) * (axis % array.ndim) + (at,)]


class _Memory:
    """Where the inputs, states and outputs of one stream lie.

    Arrays are bound to onnxruntime once, which then reads and writes them where they are. States
    have two, that take turns. Inputs and outputs whose shapes may differ from call to call, as
    those of sequences do, are bound at every call.
    """

    def __init__(self, file: OnnxFile, batch: int) -> None:
        self.batch = batch
        self._file = file
        results = [output.slot for output in file.outputs]
        self._stays = all(slot.follows_batch for slot in (*file.inputs, *results))
        kept = [state.before for state in file.states]
        filled = [state.initial for state in file.states]
        self._states = [_arrays(kept, batch, filled), _arrays(kept, batch, filled)]
        self._inputs = _arrays(file.inputs, batch) if self._stays else []
        self._shapes = [array.shape for array in self._inputs]
        self._results = _arrays(results, batch) if self._stays else []
        self._bindings = [self._binding(0), self._binding(1)]
        self._turn = 0

    def _binding(self, turn: int) -> Any:  # noqa: ANN401
        binding = self._file.session.io_binding()
        pairs = zip(self._states[turn], self._states[1 - turn], strict=True)
        for state, (before, after) in zip(self._file.states, pairs, strict=True):
            binding.bind_ortvalue_input(state.before.name, _value(before))
            binding.bind_ortvalue_output(state.after, _value(after))
        for slot, array in zip(self._file.inputs, self._inputs, strict=self._stays):
            binding.bind_ortvalue_input(slot.name, _value(array))
        for output, array in zip(self._file.outputs, self._results, strict=self._stays):
            binding.bind_ortvalue_output(output.name, _value(array))
        return binding

    def takes(self, values: Sequence[ArrayLike]) -> bool:
        """Whether values have the shapes that are bound: what the call before took, they fit."""
        return self._stays and self._shapes == [np.shape(value) for value in values]

    def call(self, values: Sequence[ArrayLike]) -> list[Array]:
        """Run the file once."""
        binding = self._bindings[self._turn]
        if not self._stays:
            return self._call_anew(binding, values)
        for place, value in zip(self._inputs, values, strict=True):
            place[...] = value
        self._run(binding)
        return [array.copy() for array in self._results]

    def _call_anew(self, binding: Any, values: Sequence[ArrayLike]) -> list[Array]:  # noqa: ANN401
        for output in self._file.outputs:
            binding.bind_output(output.name, "cpu")
        for slot, value in zip(self._file.inputs, values, strict=True):
            binding.bind_cpu_input(slot.name, value)
        self._run(binding)
        made = binding.get_outputs()[len(self._file.states) :]
        return [np.array(value.numpy()) for value in made]

    def _run(self, binding: Any) -> None:  # noqa: ANN401
        self._file.session.run_with_iobinding(binding)
        self._turn = 1 - self._turn

    def read(self) -> list[Array]:
        """The present states."""
        return [array.copy() for array in self._states[self._turn]]


def _arrays(
    slots: Sequence[Slot], batch: int, filled: Sequence[float] | None = None
) -> list[Array]:
    """An array for every slot, full of the number that belongs to it."""
    numbers = filled or [0.0] * len(slots)
    pairs = zip(slots, numbers, strict=True)
    return [np.full(slot.sizes(batch), number, slot.dtype) for slot, number in pairs]


def _value(array: Array) -> Any:  # noqa: ANN401
    """An array as onnxruntime sees it; it stays where it is."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _single(values: list[Array]) -> Any:  # noqa: ANN401
    return values[0] if len(values) == 1 else tuple(values)


def _over_time(output: OverTime, values: tuple[Array, ...]) -> Array:
    """What the model did with the values of every step."""
    if output.reduce == "last":
        return values[-1]
    if output.reduce == "running_sum":
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total
    stacked: Array = np.stack(values, output.axis if output.reduce == "stack" else 0)
    if output.reduce == "stack":
        return stacked
    reduced: Array = getattr(stacked, output.reduce)(axis=0)
    return reduced

"""A transformed network as an ordinary torch module.

It has the parameters, buffers and submodules of the model it came from (the very same objects,
under the same names), and computes what the rewritten program says, under the chosen schedule.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.capture import capture
from snncompile.errors import InputError
from snncompile.ir.program import Program
from snncompile.rewrite import Pass, run_passes
from snncompile.runtime.code import compile_graph
from snncompile.runtime.schedule import Recording, Runner, ScheduleName

_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@dataclass
class _Compiled:
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


def _agree(expected: tuple[int | None, ...], shape: torch.Size) -> bool:
    return len(expected) == len(shape) and all(
        want is None or want == have for want, have in zip(expected, shape, strict=True)
    )


class Transformed(nn.Module):
    """What `snncompile.transform` returns: the model's signature, parameters and state dict.

    Training it trains the original and the other way round. Its programs are captured per mode
    (train or eval) and per kind of input, at the first call that needs one.

    Attributes:
        original: The model it came from, unchanged.
        passes: The passes applied, in order.
        schedule: "steps", "layers", "auto" or a number of steps per tile.
    """

    original: nn.Module

    def __init__(
        self,
        model: nn.Module,
        passes: tuple[Pass, ...],
        schedule: ScheduleName | int,
        time_steps: int | None,
    ) -> None:
        super().__init__()
        self.__dict__["original"] = model
        self.passes = passes
        self.schedule: ScheduleName | int = schedule
        self.time_steps = time_steps
        self.training = model.training
        self._compiled: list[_Compiled] = []
        self._hidden: dict[str, Tensor] = {}
        self._weights: dict[str, Any] | None = None
        self._share(model)

    def _share(self, root: nn.Module) -> None:
        for name in _SHARED:
            self.__dict__[name] = root.__dict__[name]

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """What the model's forward returns for these arguments, computed by the program."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._run(self._find(args, kwargs, leaves, spec), leaves, None)

    def record(self, recording: Recording, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Like a call; fills `recording` with what every neuron received and emitted."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._run(self._find(args, kwargs, leaves, spec), leaves, recording)

    def program_for(self, *args: Any, **kwargs: Any) -> Program:  # noqa: ANN401
        """The program that a call with these arguments runs, captured if it has to be."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return self._find(args, kwargs, leaves, spec).program

    @property
    def program(self) -> Program:
        """The program captured last.

        Raises:
            InputError: Nothing was captured yet: give `transform` example inputs or call the
                module once.
        """
        if not self._compiled:
            raise InputError(
                "nothing was captured yet; give transform example_inputs or call the module once"
            )
        return self._compiled[-1].program

    def reset(self) -> None:
        """Clear the state that survives calls, as the library's own reset does."""
        self._hidden.clear()

    def _find(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        spec: pytree.TreeSpec,
    ) -> _Compiled:
        if torch.compiler.is_compiling() and self._compiled:
            return self._compiled[-1]
        mode = tuple(module.training for module in self.original.modules())
        for position in range(len(self._compiled) - 1, -1, -1):
            if self._compiled[position].fits(mode, spec, leaves):
                self._compiled.append(self._compiled.pop(position))
                return self._compiled[-1]
        return self._compile(args, kwargs, mode)

    def _compile(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], mode: tuple[bool, ...]
    ) -> _Compiled:
        program = capture(self.original, args, kwargs, time_steps=self.time_steps)
        run_passes(program, self.passes)
        shapes = _shapes(program)
        if program.one_length:
            given = pytree.tree_leaves((args, kwargs))
            shapes = tuple(tuple(given[i].shape) for i in program.arguments.tensors)
        compiled = _Compiled(
            program, Runner(program, self.schedule), mode, shapes, _batch(program),
            tuple(program.placeholder(state.name).meta["val"].dtype for state in program.states),
        )  # fmt: skip
        self._compiled.append(compiled)
        self._share(program.root)
        if self._weights is not None and program.root is not self.original:
            self.load_state_dict(self._weights)
        self._weights = None
        return compiled

    def _run(self, compiled: _Compiled, leaves: list[Any], recording: Recording | None) -> Any:  # noqa: ANN401
        program = compiled.program
        values: tuple[Any, ...] = tuple(leaves[i] for i in program.arguments.tensors)
        if program.prologue is not None:
            values = compile_graph(program, program.prologue)(program.root, *values)
        inputs, steps = _time_first(program, values[: len(program.inputs)])
        states, extras = self._initial(compiled, inputs, values[len(program.inputs) :])
        outputs, final = compiled.runner.run(inputs, states, steps, recording)
        for state, value in zip(program.states, final, strict=True):
            if state.carried:
                self._hidden[state.label] = value
        if program.epilogue is not None:
            outputs = compile_graph(program, program.epilogue)(program.root, *outputs, *extras)
        return pytree.tree_unflatten(list(outputs), program.result)

    def _initial(
        self, compiled: _Compiled, inputs: tuple[Tensor, ...], computed: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The states before the first step, and what the prologue hands to the epilogue."""
        waiting = list(computed)
        states: list[Tensor] = []
        batch = 1 if compiled.batch is None else inputs[compiled.batch[0]].shape[compiled.batch[1]]
        for state, seen in zip(compiled.program.states, compiled.state_dtypes, strict=True):
            shape = tuple(size if isinstance(size, int) else batch for size in state.shape)
            if isinstance(state.initial, str):
                states.append(waiting.pop(0).expand(shape))
                continue
            held = self._hidden.get(state.label) if state.carried else None
            if held is not None and held.shape == shape:
                states.append(held)
                continue
            dtype = _dtype(seen, inputs)
            states.append(torch.full(shape, state.initial, dtype=dtype, device=inputs[0].device))
        return tuple(states), tuple(waiting)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode, of the original too."""
        super().train(mode)
        self.original.training = mode
        for compiled in self._compiled:
            compiled.program.root.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._hidden = {label: fn(value) for label, value in self._hidden.items()}
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Programs are captured again after unpickling; weights of an own root are kept."""
        state = self.__dict__.copy()
        own_root = any(c.program.root is not self.original for c in self._compiled)
        state["_weights"] = dict(self.state_dict()) if own_root else self._weights
        state["_compiled"] = []
        for name in _SHARED:
            state[name] = self.original.__dict__[name]
        return state

    def extra_repr(self) -> str:
        """The passes and the schedule."""
        names = ", ".join(item.name for item in self.passes) or "no passes"
        return f"{type(self.original).__name__}, {names}, schedule={self.schedule!r}"


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

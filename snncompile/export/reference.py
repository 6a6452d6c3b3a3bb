"""What torch computes for a program, step by step, with the values of chosen nodes kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import SymInt, Tensor, fx

from snncompile.export.dimensions import Dimensions, expression_of
from snncompile.export.encoded_synapses import EncodedSynapse
from snncompile.ir.program import Output, Program
from snncompile.ir.values import StepInterpreter

Encodings: TypeAlias = Mapping[fx.Node, EncodedSynapse]

_LEVELS = 256
"""Random inputs are multiples of one over this, which float32 sums without rounding."""


@dataclass(frozen=True)
class Run:
    """One run over a sequence.

    Attributes:
        initial: The states before the first step.
        step_inputs: For every step, its inputs.
        step_outputs: For every step, its outputs.
        step_states: For every step, the states after it.
        results: The tensors of the model's result.
        watched: For every step, the values of the watched nodes.
    """

    initial: list[Tensor]
    step_inputs: list[list[Tensor]]
    step_outputs: list[list[Tensor]]
    step_states: list[list[Tensor]]
    results: list[Tensor]
    watched: list[dict[fx.Node, Tensor]]


def example_call(program: Program, batch: int, steps: int) -> tuple[Tensor, ...]:
    """Random tensors for one call, between zero and one.

    Args:
        program: Whose call.
        batch: The batch size.
        steps: The number of steps, unless the program fixes it.
    """
    generator = torch.Generator().manual_seed(0)
    dimensions = Dimensions.of(program, "dynamic")
    return tuple(
        torch.randint(_LEVELS + 1, shape, generator=generator).to(dtype) / _LEVELS
        if dtype.is_floating_point
        else torch.randint(2, shape, generator=generator).to(dtype)
        for shape, dtype in _call_shapes(program, dimensions, batch, program.time or steps)
    )


def _call_shapes(
    program: Program, dimensions: Dimensions, batch: int, steps: int
) -> list[tuple[list[int], torch.dtype]]:
    if program.prologue is not None:
        likes = [node.meta["val"] for node in program.prologue.find_nodes(op="placeholder")]
        return [(dimensions.numbers(like, batch, steps), like.dtype) for like in likes]
    shapes: list[tuple[list[int], torch.dtype]] = []
    for spec, node in zip(program.inputs, program.placeholders(), strict=False):
        like: Tensor = node.meta["val"]
        sizes = dimensions.numbers(like, batch, steps)
        if spec.kind == "sequence":
            sizes.insert(spec.axis % (len(sizes) + 1), steps)
        shapes.append((sizes, like.dtype))
    return shapes


class _Interpreter(StepInterpreter):
    """Computes encoded synapses in the order of the file."""

    def __init__(self, program: Program, encoded: Encodings, graph: fx.Graph | None = None) -> None:
        super().__init__(program, graph)
        self.encoded = encoded

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """A node's value."""
        if n not in self.encoded:
            return super().run_node(n)
        synapse = self.encoded[n]
        return synapse.compute(self.env[synapse.synapse.source])


def run(
    program: Program, call: Sequence[Tensor], watch: Iterable[fx.Node], encoded: Encodings
) -> Run:
    """Run a program in torch.

    Args:
        program: The program.
        call: The tensors of one call.
        watch: Nodes of the step whose values are kept.
        encoded: The synapses that are computed with encoded weights.

    Returns:
        What it computed.
    """
    with torch.no_grad():
        values = list(call)
        if program.prologue is not None:
            values = list(_Interpreter(program, encoded, program.prologue).run(*call))
        inputs, computed = values[: len(program.inputs)], values[len(program.inputs) :]
        steps = _steps(program, inputs)
        fed = [_at_step(program, inputs, step) for step in range(steps)]
        initial = _initial(program, computed, fed[0])
        made = sum(isinstance(state.initial, str) for state in program.states)
        interpreter = _Interpreter(program, encoded)
        outputs, states, watched = _loop(interpreter, fed, initial, list(watch))
        reduced = [
            _reduce(o, s) for o, s in zip(program.outputs, zip(*outputs, strict=True), strict=True)
        ]
        results: Any = reduced
        if program.epilogue is not None:
            epilogue = _Interpreter(program, encoded, program.epilogue)
            results = epilogue.run(*reduced, *computed[made:])
    tensors = [result for result in results if isinstance(result, Tensor)]
    return Run(initial, fed, outputs, states, tensors, watched)


def _steps(program: Program, inputs: Sequence[Tensor]) -> int:
    for spec, value in zip(program.inputs, inputs, strict=True):
        if spec.kind == "sequence":
            return value.shape[spec.axis]
    assert program.time is not None
    return program.time


def _at_step(program: Program, inputs: Sequence[Tensor], step: int) -> list[Tensor]:
    return [
        value.select(spec.axis, step) if spec.kind == "sequence" else value
        for spec, value in zip(program.inputs, inputs, strict=True)
    ]


def _initial(
    program: Program, computed: Sequence[Tensor], inputs: Sequence[Tensor]
) -> list[Tensor]:
    given = iter(computed)
    batch = _batch(program, inputs)
    dimensions = Dimensions.of(program, "dynamic")
    initial: list[Tensor] = []
    states = program.placeholders()[len(program.inputs) :]
    for state, node in zip(program.states, states, strict=True):
        if isinstance(state.initial, str):
            initial.append(next(given))
        else:
            like = node.meta["val"]
            sizes = dimensions.numbers(like, batch, 1)
            initial.append(torch.full(sizes, state.initial, dtype=like.dtype))
    return initial


def _batch(program: Program, inputs: Sequence[Tensor]) -> int:
    """The batch size that the inputs of a step have."""
    for node, value in zip(program.placeholders(), inputs, strict=False):
        for size, seen in zip(node.meta["val"].shape, value.shape, strict=True):
            if isinstance(size, SymInt) and expression_of(size).is_Symbol:
                return seen
    return 1


def _loop(
    interpreter: fx.Interpreter,
    fed: Sequence[list[Tensor]],
    initial: list[Tensor],
    watch: list[fx.Node],
) -> tuple[list[list[Tensor]], list[list[Tensor]], list[dict[fx.Node, Tensor]]]:
    interpreter.garbage_collect_values = False
    outputs: list[list[Tensor]] = []
    states = [initial]
    watched: list[dict[fx.Node, Tensor]] = []
    for inputs in fed:
        interpreter.env = {}
        made, after = interpreter.run(*inputs, *states[-1])
        outputs.append(list(made))
        states.append(list(after))
        watched.append({node: interpreter.env[node] for node in watch})
    return outputs, states[1:], watched


def _reduce(output: Output, values: Sequence[Tensor]) -> Tensor:
    if output.reduce == "last":
        return values[-1]
    if output.reduce == "running_sum":
        total = torch.zeros_like(values[0])
        for value in values:
            total = total + value
        return total
    stacked = torch.stack(list(values), output.axis if output.reduce == "stack" else 0)
    if output.reduce == "stack":
        return stacked
    if output.reduce == "max":
        return stacked.amax(0)
    return stacked.sum(0) if output.reduce == "sum" else stacked.mean(0)

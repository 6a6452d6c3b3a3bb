"""Runs a program in the plainest way: node by node, step by step. The schedules must agree."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snncompile.ir.program import Program
from snncompile.ir.values import StepInterpreter


def run_program(program: Program, *args: Any, states: dict[str, Tensor] | None = None) -> Any:
    """What a call of the captured model returns; carried states are kept in `states`."""
    leaves = pytree.tree_leaves((args, {}))
    values = tuple(leaves[i] for i in program.arguments.tensors)
    if program.prologue is not None:
        values = StepInterpreter(program, program.prologue).run(*values)
    inputs, rest = values[: len(program.inputs)], list(values[len(program.inputs) :])
    current = _initial(program, inputs, rest, states)
    steps = program.time or next(
        value.shape[spec.axis]
        for spec, value in zip(program.inputs, inputs, strict=True)
        if spec.kind == "sequence"
    )
    rows: list[tuple[Tensor, ...]] = []
    interpreter = StepInterpreter(program)
    for t in range(steps):
        now = [
            value.select(spec.axis, t) if spec.kind == "sequence" else value
            for spec, value in zip(program.inputs, inputs, strict=True)
        ]
        outputs, current = interpreter.run(*now, *current)
        rows.append(outputs)
    if states is not None:
        states.update({s.label: v for s, v in zip(program.states, current, strict=True)})
    reduced = [
        _reduced(output.reduce, output.axis, [row[i] for row in rows])
        for i, output in enumerate(program.outputs)
    ]
    if program.epilogue is not None:
        reduced = list(StepInterpreter(program, program.epilogue).run(*reduced, *rest))
    return pytree.tree_unflatten(reduced, program.result)


def _initial(
    program: Program, inputs: Any, rest: list[Any], states: dict[str, Tensor] | None
) -> list[Tensor]:
    sizes = [
        (node.meta["val"].shape[0], value.shape[1 if spec.axis == 0 else 0])
        if spec.kind == "sequence"
        else (node.meta["val"].shape[0], value.shape[0])
        for spec, node, value in zip(program.inputs, program.placeholders(), inputs, strict=False)
    ]
    batch = next((size for symbol, size in sizes if not isinstance(symbol, int)), 1)
    found: list[Tensor] = []
    for state in program.states:
        if isinstance(state.initial, str):
            found.append(rest.pop(0))
        elif states and state.label in states and state.carried:
            found.append(states[state.label])
        else:
            shape = [size if isinstance(size, int) else batch for size in state.shape]
            found.append(torch.full(shape, state.initial, dtype=inputs[0].dtype))
    return found


def _reduced(reduce: str, axis: int, values: list[Tensor]) -> Tensor:
    if reduce == "last":
        return values[-1]
    if reduce == "running_sum":
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total
    stacked = torch.stack(values, axis)
    if reduce == "sum":
        return stacked.sum(0)
    if reduce == "mean":
        return stacked.mean(0)
    return stacked.amax(0) if reduce == "max" else stacked

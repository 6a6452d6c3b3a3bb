"""Calls a model the way its user does, also when the time loop is the user's own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.ir.program import Program


def call(model: nn.Module, program: Program, inputs: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """What the model returns for the inputs of its transformed self.

    A model that is one time step is called once a step, on that step's part of each sequence. If
    it returns its state (an output, then the state), the state is handed to the next call, and the
    last one is returned; everything else is stacked over time.

    Args:
        model: The model.
        program: The program captured from it; says who loops.
        inputs: The arguments of one call of the transformed model.

    Returns:
        The model's result, or that of all steps.
    """
    if not program.caller_loops:
        return model(*inputs)
    timed = any(spec.kind == "sequence" for spec in program.inputs)
    handed_on = any(not state.carried for state in program.states)
    sequences = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    steps = program.time if program.time is not None else sequences[0].shape[0]
    results: list[Any] = []
    for t in range(steps):
        now = _step(inputs, t) if timed else inputs
        state = (results[-1][1],) if results and handed_on else ()
        results.append(model(*now, *state))
    if handed_on:
        return torch.stack([result[0] for result in results]), results[-1][1]
    return pytree.tree_map(lambda *rows: torch.stack(rows), *results)


def _step(inputs: tuple[Any, ...], t: int) -> tuple[Any, ...]:
    step: tuple[Any, ...] = pytree.tree_map_only(Tensor, lambda x: x[t], inputs)
    return step

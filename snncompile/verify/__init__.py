"""Is a transformed network still the model it came from? Compares the two on given inputs."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.capture.attributes import attributes_restored
from snncompile.capture.modules import reachable
from snncompile.module import Transformed
from snncompile.runtime.schedule import Recording
from snncompile.verify.caller import call
from snncompile.verify.compare import (
    compare_gradients,
    compare_neurons,
    compare_outputs,
    loss_gradients,
)
from snncompile.verify.observe import observed, reset
from snncompile.verify.report import Keeps, Report

__all__ = ["Report", "verify"]

ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}
"""How far from its threshold a membrane may be for rounding to move its spike."""

SEED = 0


def verify(
    model: nn.Module,
    transformed: nn.Module,
    *inputs: Any,  # noqa: ANN401
    gradients: bool = True,
    seed: int = SEED,
) -> Report:
    """Compare a model with its transformed self.

    Both run from the same random state with hidden states cleared; hidden states, gradients,
    statistics and the random generator are left as they were.

    Args:
        model: The model the user has.
        transformed: What `snncompile.transform` made of it.
        *inputs: The arguments of one call of either.
        gradients: Compare gradients of a random linear loss as well.
        seed: Of the random numbers (dropout masks) and of that loss.

    Returns:
        The report; ``report.ok`` says that nothing differs beyond rounding.

    Raises:
        TypeError: `transformed` does not come from `snncompile.transform`.
    """
    if not isinstance(transformed, Transformed):
        raise TypeError(
            "verify compares with what snncompile.transform returns, "
            f"not {type(transformed).__name__}"
        )
    return _compare(model, transformed, inputs, seed, gradients=gradients)


def _compare(
    model: nn.Module,
    transformed: Transformed,
    inputs: tuple[Any, ...],
    seed: int,
    *,
    gradients: bool,
) -> Report:
    program = transformed.program_for(*inputs)
    keeps = _keeps(transformed)
    linear = seed if gradients and keeps == "outputs" else None
    with _preserved(model, transformed, seed), observed(model) as seen:
        arguments, leaves = _fresh(inputs)
        expected = call(model, program, arguments)
        wanted = loss_gradients(model, expected, leaves, linear)
    recording = Recording()
    with _preserved(model, transformed, seed):
        arguments, leaves = _fresh(inputs)
        result = transformed.record(recording, *arguments)
        found = loss_gradients(transformed, result, leaves, linear)
    outputs, problems = compare_outputs(expected, result)
    same_parameters = program.root is transformed.original
    shared = {n: g for n, g in wanted.items() if same_parameters or n.startswith("input")}
    layers = () if keeps == "interface" else compare_neurons(program, seen, recording, problems)
    double = any(leaf.dtype == torch.float64 for leaf in leaves)
    rounding = ROUNDING[torch.float64 if double else torch.float32]
    compared = compare_gradients(shared, found)
    kept = transformed.kept(*inputs) if program.recompute is not None else ()
    return Report(keeps, outputs, layers, compared, tuple(problems), rounding, kept)


@contextmanager
def _preserved(model: nn.Module, transformed: Transformed, seed: int) -> Generator[None]:
    """Run with cleared states and a seeded generator; leave everything as it was."""
    buffers = {*model.buffers(), *transformed.buffers()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        stack.enter_context(attributes_restored(*reachable(model), *transformed.modules()))
        saved = {buffer: buffer.clone() for buffer in buffers}
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        reset(model)
        transformed.reset()
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in saved.items():
                    buffer.copy_(value)


def _keeps(transformed: Transformed) -> Keeps:
    """The weakest promise among the passes."""
    kept = {item.keeps for item in transformed.passes}
    if "interface" in kept:
        return "interface"
    return "spikes" if "spikes" in kept else "outputs"


def _fresh(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The inputs with fresh leaves for gradients, and those leaves."""
    leaves: list[Tensor] = []

    def fresh(tensor: Tensor) -> Tensor:
        copied = tensor.detach().clone()
        if copied.is_floating_point():
            leaves.append(copied.requires_grad_())
        return copied

    return pytree.tree_map_only(Tensor, fresh, inputs), leaves

"""From a model that a person has to a `Program`: one time step with explicit state.

A run of the model on fake tensors is recorded (`trace`). Then one of three readings fits: the
model loops over time itself (`reroll`), works on whole sequences (`multistep`), or is one step
and its caller loops (`onestep`).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.capture.modules import named_modules
from snncompile.capture.multistep import one_step_of_sequences
from snncompile.capture.onestep import one_step
from snncompile.capture.raising import raise_neurons
from snncompile.capture.reroll import reroll
from snncompile.capture.trace import Trace, record
from snncompile.errors import CaptureError, InputError
from snncompile.frontends import frontend_of
from snncompile.ir.program import Program
from snncompile.ir.values import BATCH_HINT
from snncompile.ir.verifier import verify_program

__all__ = ["capture"]

_STEPS_HINT = 5


def capture(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    time_steps: int | None = None,
) -> Program:
    """Capture a model as a program.

    Args:
        model: A spiking network of a supported library or of plain torch, in the mode (train or
            eval) that is to be captured. It is left as it was.
        example_inputs: What it is called with: a tensor or a tuple. Only shapes and dtypes
            matter; the batch, and the number of steps where the model reads it off its input,
            stay free.
        example_kwargs: Keyword arguments of the call.
        time_steps: For a model that is one time step and whose caller loops: how many steps. An
            input whose first dimension is `time_steps` is a sequence; any other input is fed
            again at every step.

    Returns:
        The program.

    Raises:
        CaptureError: The model branches on data, its steps differ, or it has a neuron that is
            not covered; the message names the line, the call or the module.
        InputError: No inputs were given, or `time_steps` contradicts the model.
    """
    if example_inputs is None:
        raise InputError("capture needs example inputs: their shapes decide how the model runs")
    args = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    program = _program(model, args, dict(example_kwargs or {}), time_steps)
    _check_time(program, time_steps)
    raise_neurons(program)
    program.notes += _silent_hooks(model)
    verify_program(program)
    return program


def _program(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], steps: int | None
) -> Program:
    """The first reading that fits."""
    try:
        trace = _record(model, args, kwargs)
        program = one_step_of_sequences(model, trace) or reroll(model, trace)
        if program is None:
            return _stepwise(model, trace, args, kwargs, steps)
        return _as_given(model, args, kwargs) if program.one_length else program
    except CaptureError as error:
        stepped = _first_steps(args, kwargs, steps)
        if stepped is None:
            raise
        return _of_sequence(model, *stepped, error)


def _as_given(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    """The program for exactly this length, where the trace may have seen a longer input."""
    trace = record(model, args, kwargs, dynamic=(0, 1))
    program = reroll(model, trace) or one_step(model, trace, time_steps=None, sequence=False)
    program.one_length = True
    return program


def _silent_hooks(model: nn.Module) -> list[str]:
    """Notes about forward hooks that the program does not run: those of lowered modules."""
    notes: list[str] = []
    for name, module in named_modules(model).items():
        frontend = frontend_of(module)
        lowered = frontend is not None and (frontend.covers(module) or frontend.stateless(module))
        held = vars(module)
        if lowered and (held["_forward_hooks"] or held["_forward_pre_hooks"]):
            notes.append(f"forward hooks of '{name}' do not run: it is lowered, not called")
    return notes


def _stepwise(
    model: nn.Module, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], steps: int | None
) -> Program:
    stepped = _first_steps(args, kwargs, steps) if steps is not None else None
    if stepped is None:
        return one_step(model, trace, time_steps=steps, sequence=False)
    return one_step(model, _record(model, *stepped), time_steps=None, sequence=True)


def _of_sequence(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: CaptureError
) -> Program:
    """A model of one step that was given a sequence: it rejects the extra dimension."""
    try:
        trace = _record(model, args, kwargs)
        if one_step_of_sequences(model, trace) or reroll(model, trace):
            raise error
        return one_step(model, trace, time_steps=None, sequence=True)
    except CaptureError:
        raise error from None


def _first_steps(
    args: tuple[Any, ...], kwargs: dict[str, Any], steps: int | None
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of the first step, if every tensor may be a sequence of `steps`."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not tensors or any(t.dim() < 2 for t in tensors):  # noqa: PLR2004
        return None
    if steps is not None and any(t.shape[0] != steps for t in tensors):
        return None
    first: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        Tensor, lambda t: t[0], (args, kwargs)
    )
    return first


def _check_time(program: Program, steps: int | None) -> None:
    if steps is not None and program.time not in {None, steps}:
        raise InputError(
            f"the model itself runs {program.time} time steps, but time_steps={steps}; leave "
            "time_steps out"
        )


def _record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Record with sizes that can stay symbolic; where the model rejects those, as given."""
    attempts = list(_resized(args, kwargs))
    for resized in attempts[:-1]:
        try:
            return record(model, *resized, dynamic=(0, 1))
        except CaptureError:
            continue
    return record(model, *attempts[-1], dynamic=(0, 1))


def _resized(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Sizes 0 and 1 broadcast, so they cannot stand for any size: stretch them, then less so."""
    seen: list[list[torch.Size]] = []
    for axes in ((0, 1), (0,), ()):
        resized = pytree.tree_map_only(Tensor, partial(_stretched, axes=axes), (args, kwargs))
        shapes = [leaf.shape for leaf in pytree.tree_leaves(resized) if isinstance(leaf, Tensor)]
        if shapes not in seen:
            seen.append(shapes)
            yield resized


def _stretched(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    shape = list(tensor.shape)
    if 0 in axes and tensor.dim() > 1 and shape[0] < _STEPS_HINT - 2:
        shape[0] = _STEPS_HINT
    if 1 in axes and tensor.dim() > 2 and shape[1] < 2:  # noqa: PLR2004
        shape[1] = BATCH_HINT
    return tensor if shape == list(tensor.shape) else tensor.new_empty(shape)

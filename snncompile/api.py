"""The verbs of snncompile: capture, transform, verify, bench, export."""

import os
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile import passes as registry
from snncompile.bench import Comparison, bench
from snncompile.capture import capture
from snncompile.errors import ExportError, InputError
from snncompile.export import Encoding, ExportReport, Form, Target, export_program
from snncompile.ir.accumulation import accumulating
from snncompile.ir.program import Program
from snncompile.module import Transformed
from snncompile.rewrite import Pass
from snncompile.runtime.schedule import ScheduleName
from snncompile.verify import Report, verify

__all__ = ["Comparison", "Report", "bench", "capture", "export", "transform", "verify"]


def transform(
    model: nn.Module,
    passes: str | Pass | Sequence[str | Pass],
    *,
    example_inputs: Tensor | Sequence[Any] | None = None,
    time_steps: int | None = None,
    schedule: ScheduleName | int = "auto",
) -> Transformed:
    """Rewrite a model; the result is called, trained and saved like the model itself.

    Args:
        model: A spiking network of a supported library or of plain torch, or what an earlier
            `transform` returned: its passes come first, and what it learned is kept.
        passes: The name of a pass, a pass object with options, or a list of them in order; the
            empty list only captures the model and runs it under the schedule.
        example_inputs: Arguments of one call, to capture at once; otherwise the first call does.
        time_steps: For a model that is one time step and whose caller loops: how many steps.
        schedule: "steps" runs step by step, "layers" layer by layer over all steps, a number
            that many steps at a time; "auto" chooses.

    Returns:
        A module with the model's signature, parameters, buffers and state-dict keys: training it
        trains the model. A pass that must change parameters works on a copy and says so.

    Raises:
        CaptureError: The model cannot be captured; see `capture`.
        PassRefusedError: A pass does not apply; names the node, the reason and the way out.
        InputError: An unknown pass or schedule.
    """
    chosen, earlier = _passes(passes), model
    if isinstance(model, Transformed):
        chosen = (*model.passes, *chosen)
        time_steps = model.time_steps if time_steps is None else time_steps
        model = model.original
    _check_schedule(schedule)
    transformed = Transformed(model, chosen, schedule, time_steps)
    if isinstance(earlier, Transformed):
        transformed.continue_from(earlier)
    return _captured(transformed, example_inputs)


def _captured(transformed: Transformed, example: Tensor | Sequence[Any] | None) -> Transformed:
    """The network, with its program captured if there are inputs for it."""
    if example is not None:
        transformed.program_for(*((example,) if isinstance(example, Tensor) else example))
    return transformed


def export(  # noqa: PLR0913
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    example_inputs: Tensor | Sequence[Any] | None = None,
    weights: Encoding = "float32",
    form: Form = "sequence",
    target: Target = "any",
    batch: Literal["dynamic"] | int = "dynamic",
    opset: int = 18,
) -> ExportReport:
    """Write a network as an ONNX file and check it in onnxruntime before it is put in place.

    Args:
        module: What `transform` returned, or a model (which is then captured first).
        path: The file; it appears whole or not at all.
        example_inputs: Arguments of one call; needed when nothing was captured yet, and what the
            check runs on.
        weights: "binary" stores one bit a weight where a layer has two levels a channel, as the
            pass `binarize` makes them, "ternary" two bits where it has three; other layers stay
            float32. "int8" rounds all weights to 255 levels a channel.
        form: "sequence" takes whole sequences; "step" one time step, with states as inputs and
            outputs; "unrolled" sequences as long as the example's, without control flow.
        target: "x86-int8" adds up in 8-bit integers where that is faster on x86, as exactly.
        batch: "dynamic", or a fixed batch size.
        opset: The ONNX operator set, 17 to 23.

    Returns:
        What was written and how exactly it agrees with torch.

    Raises:
        ExportError: An operation has no ONNX form, the path cannot be written, or onnxruntime
            disagrees with torch.
        InputError: Nothing was captured and no example inputs were given.
    """
    program, check = _program_of(module, example_inputs)
    _refuse_accumulations(program)
    chosen: Any = {"weights": weights, "form": form, "target": target, "batch": batch}
    return export_program(program, path, check=check, opset=opset, **chosen)


def _program_of(
    module: nn.Module, example_inputs: Tensor | Sequence[Any] | None
) -> tuple[Program, tuple[Tensor, ...] | None]:
    """The program of a module, and the tensors of its example call."""
    transformed = (
        module if isinstance(module, Transformed) else Transformed(module, (), "auto", None)
    )
    if example_inputs is None:
        return transformed.program, None
    args = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    tensors = tuple(leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor))
    return transformed.program_for(*args), tensors


def _refuse_accumulations(program: Program) -> None:
    """What was rewritten to be trained on accumulations is exported as the model that it trains."""
    if any(node.target is accumulating for node in program.neurons()):
        raise ExportError(
            "export: this network reads accumulations, for training. Export its `.original`, which "
            "has the same weights and infers with plain spikes."
        )


def _passes(passes: str | Pass | Sequence[str | Pass]) -> tuple[Pass, ...]:
    listed = (passes,) if isinstance(passes, (str, Pass)) else tuple(passes)
    return tuple(registry.find(item)() if isinstance(item, str) else item for item in listed)


def _check_schedule(schedule: str | int) -> None:
    valid = schedule in {"steps", "layers", "auto"} or (isinstance(schedule, int) and schedule > 0)
    if not valid or isinstance(schedule, bool):
        raise InputError(
            f"schedule is {schedule!r}; use 'steps', 'layers', 'auto' or a positive number of steps"
        )

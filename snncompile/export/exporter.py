"""Exports a program: writes the ONNX file, checks it, compares it with torch, puts it in place."""

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import onnx
from onnx import shape_inference
from torch import Tensor, fx

from snncompile.errors import ExportError, InputError
from snncompile.export.agreement import Comparison, probes, thresholds
from snncompile.export.dimensions import Batch, Dimensions
from snncompile.export.draft import IR_VERSIONS, Draft
from snncompile.export.emitter import Emitter
from snncompile.export.exactness import LARGEST_INPUT, exactness
from snncompile.export.graph import GraphWriter, Names
from snncompile.export.neurons import FunctionLibrary
from snncompile.export.reference import example_call, run
from snncompile.export.report import Agreement, ExportReport, Form
from snncompile.export.sequence_form import write_sequence
from snncompile.export.step_form import write_step
from snncompile.ir.program import Program

CHECKED_STEPS = 4
CHECKED_BATCH = 2
"""How many steps and samples the comparison with torch runs, if the caller gives no inputs."""

LARGEST_FILE = 2**31 - 2**20
"""Protobuf ends at 2 GiB; some room is left for the graph itself."""

_FORMS = {"step": write_step, "sequence": write_sequence}


def export_program(  # noqa: PLR0913
    program: Program,
    path: str | os.PathLike[str],
    *,
    form: Form = "sequence",
    batch: Literal["dynamic"] | int = "dynamic",
    opset: int = 18,
    check: tuple[Tensor, ...] | None = None,
) -> ExportReport:
    """Write a program as an ONNX file that any runtime of the opset's time loads.

    Neurons are local functions of the domain "snn"; every state is an input and an output.

    Args:
        program: The program; its layers in eval mode, its nodes with ``meta["val"]``.
        path: The file; it appears whole or not at all.
        form: "sequence" takes and returns what the model does; "step" is one time step.
        batch: "dynamic", or the batch size that the file declares.
        opset: The version of the ONNX operators, 17 to 23.
        check: The tensors of a call to compare on; random ones by default.

    Returns:
        What was written, and how exactly it agrees with torch.

    Raises:
        ExportError: A layer has no recipe or trains, or onnxruntime disagrees with torch.
        InputError: The form, the batch, the opset or the directory does not exist.
    """
    target = Path(path)
    _check_arguments(target, form, batch, opset)
    known, reason = exactness(program)
    draft, model = _written(program, form, batch, opset)
    about = _about(program, draft, form)
    _describe(model, {**about, "exactness": known, "exactness_reason": reason, "form": form})
    _check_model(model)
    data = model.SerializeToString()
    agreement = _compared(program, form, opset, _call(program, batch, check), data)
    write_atomically(target, data)
    names, nodes = tuple(f.name for f in model.functions), len(model.graph.node)
    return ExportReport(target, len(data), form, opset, nodes, names, known, reason, agreement)


def _compared(
    program: Program, form: Form, opset: int, call: tuple[Tensor, ...], data: bytes
) -> Agreement:
    """Compare a serialized model with torch, neuron by neuron."""
    watched = probes(thresholds(program))
    draft, probed = _written(program, form, "dynamic", opset, watched)
    comparison = Comparison(program, run(program, call, watched), form)
    return comparison.check(call, draft, probed.SerializeToString(), data)


def _check_arguments(path: Path, form: str, batch: object, opset: int) -> None:
    if form not in _FORMS:
        raise InputError(f"export: form is {form!r}; use one of {', '.join(_FORMS)}")
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise InputError(f"export: batch is {batch!r}; use 'dynamic' or a positive number")
    if opset not in IR_VERSIONS:
        raise InputError(f"export: opset is {opset}; use {min(IR_VERSIONS)} to {max(IR_VERSIONS)}")
    if not path.parent.is_dir():
        raise InputError(f"export: the directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise InputError(f"export: {path} is a directory; name a file in it")


def _written(
    program: Program, form: Form, batch: Batch, opset: int, watch: tuple[fx.Node, ...] = ()
) -> tuple[Draft, onnx.ModelProto]:
    functions = FunctionLibrary(opset)
    emitter = Emitter(program, functions)
    dimensions = Dimensions.of(program, batch)
    draft = _FORMS[form](emitter, GraphWriter(opset, Names()), dimensions, watch)
    return draft, draft.model(functions, type(program.root).__name__)


def _call(program: Program, batch: Batch, check: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """The call to compare on, without steps beyond those that the program runs.

    Raises:
        InputError: It has not the tensors that the program reads.
    """
    if not check:
        return example_call(
            program, batch if isinstance(batch, int) else CHECKED_BATCH, CHECKED_STEPS
        )
    if len(check) != len(program.arguments.tensors):
        names = ", ".join(spec.name for spec in program.inputs)
        raise InputError(
            f"export: the network reads {names}, but {len(check)} example inputs were given; leave "
            "them out to compare on random ones"
        )
    if program.time is None or program.prologue is not None:
        return check
    return tuple(
        value.narrow(spec.axis, 0, program.time) if spec.kind == "sequence" else value
        for spec, value in zip(program.inputs, check, strict=True)
    )


def _about(program: Program, draft: Draft, form: Form) -> dict[str, object]:
    """What the file says about itself, apart from its exactness."""
    pairs = zip(program.states, draft.states, strict=True)
    states = [
        {
            "input": before,
            "output": after,
            "label": state.label,
            "initial": state.initial if isinstance(state.initial, float | int) else "computed",
        }
        for state, (before, after) in pairs
    ]
    reductions = {spec.name: spec.reduce for spec in program.outputs}
    return {
        "snncompile": version("snncompile"),
        "states": states,
        "time": program.time if program.time is not None else "any",
        "weights_sha256": _fingerprint(program),
        "exact_for": f"inputs that are integers up to {LARGEST_INPUT} in magnitude",
        **({"reduce": reductions} if form == "step" else {}),
    }


def _fingerprint(program: Program) -> str:
    """SHA-256 over the names and the bytes of parameters, buffers and constants."""
    digest = hashlib.sha256()
    for name, value in sorted([*program.root.state_dict().items(), *program.constants.items()]):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _describe(model: onnx.ModelProto, metadata: dict[str, object]) -> None:
    onnx.helper.set_model_props(model, {k: _text(v) for k, v in metadata.items()})


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_size(model: onnx.ModelProto) -> None:
    """Refuse what one protobuf file cannot hold.

    Raises:
        ExportError: The model is too large.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > LARGEST_FILE:
        raise ExportError(
            f"export: the weights take {size:,} bytes, and one ONNX file holds {LARGEST_FILE:,}; "
            "export parts of the network, or a smaller one"
        )


def _check_model(model: onnx.ModelProto) -> None:
    """ONNX's own checks, with shapes.

    Raises:
        ExportError: The model is too large, or they found a fault of the exporter.
    """
    _check_size(model)
    try:
        onnx.checker.check_model(model, full_check=True)  # pyright: ignore[reportUnknownMemberType]
        shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"export: the ONNX checker refuses the graph ({reason}); please report this as a fault "
            "of the exporter"
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    Raises:
        ExportError: It cannot be written.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ExportError(
            f"export: {path} cannot be written ({error.strerror}); choose another place"
        ) from error

"""Exports a program: writes the ONNX file, checks it, compares it with torch, puts it in place."""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
from onnx import shape_inference
from torch import Tensor, fx

from snncompile.errors import ExportError, InputError
from snncompile.export.agreement import Comparison, probes, thresholds
from snncompile.export.change import change
from snncompile.export.choices import Choices
from snncompile.export.connections import synapses_of
from snncompile.export.dimensions import Batch, Dimensions
from snncompile.export.draft import Draft
from snncompile.export.emitter import Emitter
from snncompile.export.encoded_synapses import EncodedSynapse, Target, encode
from snncompile.export.encodings import Encoding
from snncompile.export.exactness import exactness
from snncompile.export.graph import GraphWriter, Names
from snncompile.export.metadata import about, describe
from snncompile.export.neurons import FunctionLibrary
from snncompile.export.reference import example_call, run
from snncompile.export.report import Agreement, EncodedWeights, ExportReport, Form
from snncompile.export.sequence_form import write_sequence, write_unrolled
from snncompile.export.step_form import write_step
from snncompile.ir.program import Program

CHECKED_STEPS = 4
CHECKED_BATCH = 2
"""How many steps and samples the comparison with torch runs, if the caller gives no inputs."""

LARGEST_FILE = 2**31 - 2**20
"""Protobuf ends at 2 GiB; some room is left for the graph itself."""

_FORMS = {"step": write_step, "sequence": write_sequence, "unrolled": write_unrolled}


def export_program(  # noqa: PLR0913
    program: Program,
    path: str | os.PathLike[str],
    *,
    form: Form = "sequence",
    weights: Encoding = "float32",
    target: Target = "any",
    batch: Literal["dynamic"] | int = "dynamic",
    opset: int = 18,
    check: tuple[Tensor, ...] | None = None,
) -> ExportReport:
    """Write a program as an ONNX file that any runtime of the opset's time loads.

    Neurons are local functions of the domain "snn"; every state is an input and an output.

    Args:
        program: The program; its layers in eval mode, its nodes with ``meta["val"]``.
        path: The file; it appears whole or not at all.
        form: "step" is one time step, "sequence" all, "unrolled" all of one number of them.
        weights: "binary" stores the weights that have two levels a channel as one bit each,
            "ternary" those that have three as two bits; all others stay float32. "int8" rounds
            every weight to 255 levels a channel.
        target: "x86-int8" has wide linear layers and convolutions with encoded weights add up in
            8-bit integers: faster on x86 processors, slower in browsers, exact in both.
        batch: "dynamic", or the batch size that the file declares.
        opset: The version of the ONNX operators, 17 to 23.
        check: The tensors of a call to compare on; random ones by default.

    Returns:
        What was written, and how exactly it agrees with torch.

    Raises:
        ExportError: A layer has no recipe or trains, no weight fits the encoding or one is not
            finite, or onnxruntime disagrees with torch.
        InputError: The form, the batch, the opset or the directory does not exist.
    """
    return _exported(program, Path(path), Choices(form, weights, target, batch, opset), check)


def _exported(
    program: Program, file: Path, choices: Choices, check: tuple[Tensor, ...] | None
) -> ExportReport:
    choices.check(file)
    if choices.form == "unrolled":
        program = replace(program, time=_steps(program, check))
    source = _Source(program, encode(program, choices.weights, choices.target), choices)
    codes = {node: synapse.code for node, synapse in source.encoded.items()}
    known, reason = exactness(program, codes)
    draft, model = source.written(choices.batch)
    classed = {"exactness": known, "exactness_reason": reason}
    describe(model, {**about(program, draft, choices), **classed})
    _check_model(model)
    data = model.SerializeToString()
    agreement, changed = _compared(source, _call(program, choices.batch, check), data)
    write_atomically(file, data)
    names, nodes = tuple(f.name for f in model.functions), len(model.graph.node)
    return ExportReport(
        file, len(data), choices.form, choices.opset, nodes, names, known, reason, agreement,
        changed,
    )  # fmt: skip


def _steps(program: Program, call: tuple[Tensor, ...] | None) -> int:
    """How many steps an unrolled file has."""
    if program.time is not None:
        return program.time
    if call is None:
        raise InputError(
            "export: an unrolled file has a fixed number of steps; give example_inputs with as many"
        )
    return len(run(program, call, (), {}).step_inputs)


@dataclass(frozen=True)
class _Source:
    """What is written, and how.

    Attributes:
        program: The program.
        encoded: Its synapses whose weights are encoded.
        choices: Form and opset of the file.
    """

    program: Program
    encoded: dict[fx.Node, EncodedSynapse]
    choices: Choices

    def written(
        self, batch: Batch, watch: tuple[fx.Node, ...] = ()
    ) -> tuple[Draft, onnx.ModelProto]:
        """The model, and its main graph with the interface."""
        opset = self.choices.opset
        functions = FunctionLibrary(opset)
        emitter = Emitter(self.program, functions, self.encoded)
        dimensions = Dimensions.of(self.program, batch)
        graph = GraphWriter(opset, Names())
        draft = _FORMS[self.choices.form](emitter, graph, dimensions, watch)
        return draft, draft.model(functions, type(self.program.root).__name__)


def _compared(
    source: _Source, call: tuple[Tensor, ...], data: bytes
) -> tuple[Agreement, EncodedWeights]:
    """Compare a serialized model with torch, neuron by neuron, and that with the float weights."""
    program = source.program
    found = thresholds(program)
    watched = probes(found)
    draft, probed = source.written("dynamic", watched)
    reference = run(program, call, watched, source.encoded)
    plain = run(program, call, watched, {}) if source.encoded else reference
    comparison = Comparison(program, reference, source.choices.form)
    agreement = comparison.check(call, draft, probed.SerializeToString(), data)
    changed = change(synapses_of(program), source.encoded, (plain, reference), found)
    return agreement, changed


def _call(program: Program, batch: Batch, check: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """The call to compare on, without steps beyond those that the program runs.

    Raises:
        InputError: It has not the tensors that the program reads.
    """
    if not check:
        return example_call(
            program, batch if isinstance(batch, int) else CHECKED_BATCH, CHECKED_STEPS
        )
    if program.prologue is not None:
        return check
    if len(check) != len(program.inputs):
        names = ", ".join(spec.name for spec in program.inputs)
        raise InputError(
            f"export: the network reads {names}, but {len(check)} example inputs were given; leave "
            "them out to compare on random ones"
        )
    if program.time is None:
        return check
    return tuple(
        value.narrow(spec.axis, 0, program.time) if spec.kind == "sequence" else value
        for spec, value in zip(program.inputs, check, strict=True)
    )


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

"""What an exported file says about itself: how it was written, states, inputs and outputs."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version

import onnx
from torch import Tensor

from snncompile.export.choices import Choices
from snncompile.export.draft import Draft
from snncompile.export.exactness import LARGEST_INPUT
from snncompile.export.report import Form
from snncompile.export.surroundings import result_names
from snncompile.ir.program import Program


def about(program: Program, draft: Draft, choices: Choices) -> dict[str, object]:
    """What a file says about itself, apart from its exactness.

    Args:
        program: What was written.
        draft: Its main graph, with the names of the states.
        choices: How it was written.
    """
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
    return {
        "snncompile": version("snncompile"),
        "states": states,
        "time": program.time if program.time is not None else "any",
        "weights_sha256": _fingerprint(program),
        "exact_for": f"inputs that are integers up to {LARGEST_INPUT} in magnitude",
        **asdict(choices),
        **_interface(program, choices.form),
    }


def _interface(program: Program, form: Form) -> dict[str, object]:
    """The time axes of the inputs, and what the outputs of the steps become."""
    axes = [spec.axis if spec.kind == "sequence" else None for spec in program.inputs]
    outputs = [asdict(spec) for spec in program.outputs]
    if form != "step" and program.prologue is not None:
        axes = [None] * len(program.prologue.find_nodes(op="placeholder"))
    if form != "step" and program.epilogue is not None:
        outputs = [{"name": n, "reduce": "last", "axis": 0} for n in result_names(program)]
    after = {"after the steps": "the model computes more"} if program.epilogue else {}
    return {"inputs": axes, "outputs": outputs, **after}


def _fingerprint(program: Program) -> str:
    """SHA-256 over the names and the bytes of parameters, buffers and constants."""
    digest = hashlib.sha256()
    for name, value in sorted([*program.root.state_dict().items(), *program.constants.items()]):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(model: onnx.ModelProto, metadata: dict[str, object]) -> None:
    """Put metadata into a model, lists and numbers as JSON."""
    onnx.helper.set_model_props(model, {k: _text(v) for k, v in metadata.items()})


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""Notes what a forward did to the hidden states of its neurons after their last step."""

from dataclasses import replace

from torch import fx, nn

from snncompile.capture.lowering import LoweringRecorder
from snncompile.capture.modules import covering
from snncompile.errors import CaptureError


def note_clearing(model: nn.Module, recorder: LoweringRecorder) -> None:
    """States that forward clears at its end are not carried to the next call.

    Args:
        model: The model, right after its call was recorded.
        recorder: The recorder; its states are replaced.

    Raises:
        CaptureError: Forward left something else in a state; names it.
    """
    stepped = dict(recorder.finished)
    for module in model.modules():
        frontend = covering(module)
        if frontend is not None:
            frontend.end(module, recorder)
    written = {s: v for s, v in recorder.finished.items() if stepped.get(s) is not v}
    recorder.finished = stepped
    for label, state in recorder.states.items():
        value = written.get(state.node)
        if value is None or not state.carried:
            continue
        if not _fills(value, state.initial):
            raise CaptureError(
                f"the state '{label}' is written after its neuron's last step; only clearing it "
                "can be captured, anything else belongs into the step"
            )
        recorder.states[label] = replace(state, carried=False)


def _fills(value: fx.Node, initial: float | fx.Node) -> bool:
    """Whether a node is a tensor filled with a state's initial number."""
    name = value.target if isinstance(value.target, str) else getattr(value.target, "__name__", "")
    if name in {"zeros_like", "zeros", "new_zeros"}:
        return initial == 0.0
    return name == "full_like" and value.args[1:] == (initial,)

"""Refuses a model that remembers tensors in plain attributes from one call to the next.

``self.membrane = 0.5 * self.membrane + x`` is a state that no frontend knows of. Captured as it
is, every call would start from the value the attribute had then, without a word. Writing an
attribute for others to look at is harmless, so what counts is whether a second call reads it.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snncompile.capture.modules import covering, named_modules
from snncompile.capture.recorder import Recorder
from snncompile.errors import CaptureError

Attributes: TypeAlias = dict[str, dict[str, Any]]


def attributes_of(model: nn.Module) -> Attributes:
    """The plain attributes of every module that no frontend covers, by its name."""
    found: Attributes = {}
    for name, module in named_modules(model).items():
        if covering(module) is None:
            plain = {k: v for k, v in vars(module).items() if not k.startswith("_")}
            found[name] = {k: v.copy() if isinstance(v, list) else v for k, v in plain.items()}
    return found


def refuse_memory(
    model: nn.Module, recorder: Recorder, before: Attributes, again: Callable[[], object]
) -> None:
    """Call the model once more if it stored tensors, and refuse it if that call reads them.

    Args:
        model: The model, right after its call was recorded.
        recorder: The recorder; what the second call adds to it is taken back.
        before: Its attributes before the call.
        again: Calls it once more.

    Raises:
        CaptureError: The second call depends on tensors of the first; names the attribute.
    """
    stored = _stored(model, before)
    if not stored:
        return
    first = set(recorder.graph.nodes)
    states, finished = dict(recorder.states), dict(recorder.finished)
    again()
    fresh = [node for node in recorder.graph.nodes if node not in first]
    known = {*finished.values(), *finished}
    crossing = [a for node in fresh for a in node.all_input_nodes if a in first and a not in known]
    for node in reversed(fresh):
        recorder.graph.erase_node(node)
    recorder.states, recorder.finished = states, finished
    for node in crossing:
        if node.op.startswith("call") and isinstance(node.meta["val"], Tensor):
            raise CaptureError(_message(stored, node, recorder))


def _stored(model: nn.Module, before: Attributes) -> dict[str, Any]:
    """Attributes that hold other tensors than before, by qualified name."""
    found: dict[str, Any] = {}
    for name, attributes in attributes_of(model).items():
        for key, value in attributes.items():
            old = pytree.tree_leaves(before.get(name, {}).get(key))
            tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
            if any(all(tensor is not leaf for leaf in old) for tensor in tensors):
                found[f"{name}.{key}".lstrip(".")] = tensors
    return found


def _message(stored: dict[str, Any], node: fx.Node, recorder: Recorder) -> str:
    names = [n for n, held in stored.items() if any(recorder.node(t) is node for t in held)]
    return (
        f"the model keeps a tensor in '{(names or list(stored))[0]}' from one call to the next; "
        "hand it in and out of forward, or make the neuron one of snncompile.nn"
    )

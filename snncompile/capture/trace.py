"""Runs a model once on fake tensors and returns what it did as a `Trace`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from snncompile.capture.attributes import attributes_restored, reachable
from snncompile.capture.buffers import buffers_to_stacks
from snncompile.capture.functions import functions_intercepted, recorded_whole
from snncompile.capture.lowering import LoweringRecorder
from snncompile.capture.memory import attributes_of, refuse_memory
from snncompile.capture.recorder import RecordedState
from snncompile.errors import CaptureError, SnncompileError
from snncompile.frontends import frontend_of
from snncompile.ir.program import Arguments
from snncompile.ir.values import fake_input, fake_mode, fake_parameters


@dataclass
class Trace:
    """One recorded run.

    Attributes:
        graph: Every call, in execution order; placeholders are inputs and states.
        inputs: The placeholders of the call's tensors.
        states: States the frontends asked for, by label.
        finished: For a state's placeholder, the node of its latest value.
        leaves: What the model returned, flattened: nodes, or values that are not tensors.
        result: The structure of what it returned.
        arguments: The structure of the call.
        constants: Tensors the model closed over.
        measured: Nodes whose size or iteration the model asked for.
        single_step: Layers of a library, and the torch.nn class that is one step of each.
        sequence_layers: Those of them that take whole sequences.
        whole: call_module nodes that read a whole sequence.
    """

    graph: fx.Graph
    inputs: list[fx.Node]
    states: dict[str, RecordedState]
    finished: dict[fx.Node, fx.Node]
    leaves: list[Any]
    result: pytree.TreeSpec
    arguments: Arguments
    constants: dict[str, Tensor]
    measured: set[fx.Node]
    single_step: dict[str, type[nn.Module]]
    sequence_layers: set[str]
    whole: set[str]


def record(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: tuple[int, ...]
) -> Trace:
    """Run the model on fake copies of the arguments and record every call.

    Args:
        model: Any module; it is left as it was.
        args: Positional arguments; tensors give shapes and dtypes only.
        kwargs: Keyword arguments.
        dynamic: The dimensions of every input tensor whose sizes stay symbolic.

    Returns:
        The recorded run.

    Raises:
        CaptureError: A branch depends on data, a neuron is not covered, or a call cannot be
            recorded; the message names the line of the model.
    """
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}
    recorder = LoweringRecorder(names)
    mode = fake_mode()
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    inputs = [
        recorder.input(name, fake_input(mode, leaves[i], _within(leaves[i], dynamic)))
        for i, name in zip(tensors, _input_names(model, args, kwargs), strict=True)
    ]
    for i, node in zip(tensors, inputs, strict=True):
        leaves[i] = node.meta["val"]
    fake_args, fake_kwargs = pytree.tree_unflatten(leaves, spec)
    before = attributes_of(model)
    with attributes_restored(*reachable(model)), _active(model, recorder, mode):
        try:
            result = model(*fake_args, **fake_kwargs)
        except SnncompileError:
            raise
        except Exception as error:
            raise _explained(model, error) from error
        flat, result_spec = pytree.tree_flatten(result)
        _end(model, recorder)
        nodes = [recorder.node(leaf) if isinstance(leaf, Tensor) else leaf for leaf in flat]
        refuse_memory(model, recorder, before, lambda: model(*fake_args, **fake_kwargs))
        buffers_to_stacks(recorder.graph, nodes)
    return Trace(
        recorder.graph,
        inputs,
        recorder.states,
        recorder.finished,
        nodes,
        result_spec,
        Arguments(spec, constants, tensors),
        recorder.constants,
        recorder.measured,
        recorder.single_step,
        recorder.sequence_layers,
        recorder.whole,
    )


def _end(model: nn.Module, recorder: LoweringRecorder) -> None:
    """Note what forward did to hidden states after their last step: clear them, at most."""
    stepped = dict(recorder.finished)
    for module in model.modules():
        frontend = frontend_of(module)
        if frontend is not None and frontend.covers(module):
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


def _within(tensor: Tensor, dynamic: tuple[int, ...]) -> tuple[int, ...]:
    """Of two dimensions the second is features, so only the first may stay symbolic."""
    return tuple(i for i in dynamic if i < max(tensor.dim() - 1, 1))


def _input_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
    """A readable name for each tensor leaf: the parameter of forward that it is passed as."""
    code = getattr(type(model).forward, "__code__", None)
    named = list(code.co_varnames[1 : code.co_argcount]) if code else []
    taken: set[str] = set()
    pairs = [
        *zip([*named, *(f"input{i}" for i in range(len(named), len(args)))], args, strict=False)
    ]
    for name, value in [*pairs, *kwargs.items()]:
        count = sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
        for i in range(count):
            unique = name if count == 1 and name not in taken else f"{name}{i}"
            taken.add(unique)
            yield unique


# Running on fakes --------------------------------------------------------------------------------


@contextmanager
def _active(model: nn.Module, recorder: LoweringRecorder, mode: FakeTensorMode) -> Iterator[None]:
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                recorder.parameter(f"{prefix}.{name}".lstrip("."), value)
    with ExitStack() as stack:
        stack.enter_context(_quiet_logger("torch._subclasses.fake_tensor"))
        for name, fake in stack.enter_context(fake_parameters(model, mode)).items():
            recorder.parameter(name, fake)
        for module in model.modules():
            frontend = frontend_of(module)
            if frontend is not None and frontend.covers(module):
                frontend.begin(module)
        stack.enter_context(mode)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_modules_recorded(recorder))
        stack.enter_context(functions_intercepted(recorded_whole(recorder)))
        stack.enter_context(recorder)
        yield


@contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    """Torch logs what fails on fake tensors; here a failure is an answer, told in our own error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _modules_recorded(recorder: LoweringRecorder) -> Iterator[None]:
    """Route every module call through the recorder."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if recorder._paused:
            return original(module, *args, **kwargs)
        return _call(recorder, module, args, kwargs, lambda: original(module, *args, **kwargs))

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _call(
    recorder: LoweringRecorder,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: Callable[[], Any],
) -> Any:  # noqa: ANN401
    frontend = frontend_of(module)
    if frontend is not None:
        refusal = frontend.refusal(module)
        if refusal:
            place = recorder.names.get(id(module), "")
            raise CaptureError(f"module '{place}': {refusal}")
        if frontend.covers(module):
            with recorder.inside(module):
                return frontend.lower(module, recorder, *args, **kwargs)
        layer = frontend.stateless(module)
        if layer is not None:
            name = recorder.names[id(module)]
            recorder.single_step[name] = layer
            if frontend.takes_sequences(module):
                recorder.sequence_layers.add(name)
            return recorder.call_module(module, args, kwargs, run)
        if getattr(frontend, "whole", _never)(module):
            result = recorder.call_module(module, args, kwargs, run)
            recorder.whole.add(recorder.node(result).name)
            return result
    if _is_layer(module) and recorder.names.get(id(module)) != "":
        return recorder.call_module(module, args, kwargs, run)
    with recorder.inside(module):
        return run()


def _never(module: nn.Module) -> bool:
    return False


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _is_layer(module: nn.Module) -> bool:
    """A layer of torch itself: recorded as one call. Containers and users' modules are entered."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn.utils.parametrize"):
        kind = kind.__mro__[1]
    return kind.__module__.startswith("torch.nn.modules") and not isinstance(module, _CONTAINERS)


# Errors ------------------------------------------------------------------------------------------


def _explained(model: nn.Module, error: Exception) -> Exception:
    """What went wrong in the model's own words: the line of its code, and the way out."""
    frame = _users_frame(error)
    where = f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}" if frame else "its forward"
    kind = type(model).__name__
    if isinstance(error, (GuardOnDataDependentSymNode, DataDependentOutputException)):
        return CaptureError(
            f"{kind} decides by the value of a tensor at {where}\n"
            "a program is the same for all inputs: use torch.where, or move the decision out of "
            "forward"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CaptureError(f"{kind} failed at {where}\n{type(error).__name__}: {reason}")


def _users_frame(error: Exception) -> FrameSummary | None:
    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith(inside)]
    return frames[-1] if frames else None

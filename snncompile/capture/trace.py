"""Runs a model once on fake tensors and returns what it did as a `Trace`."""

import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from snncompile.capture.attributes import attributes_restored
from snncompile.capture.buffers import buffers_to_stacks
from snncompile.capture.calls import modules_recorded
from snncompile.capture.clearing import note_clearing
from snncompile.capture.functions import functions_intercepted, recorded_whole
from snncompile.capture.lowering import LoweringRecorder
from snncompile.capture.memory import attributes_of, refuse_memory
from snncompile.capture.modules import covering, named_modules, reachable
from snncompile.capture.starts import merge_fills
from snncompile.capture.states import RecordedState
from snncompile.errors import CaptureError, SnncompileError
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
    recorder = LoweringRecorder({id(m): name for name, m in named_modules(model).items()})
    mode = fake_mode()
    names = _input_names(model, args, kwargs)

    def fake(tensor: Tensor) -> Tensor:
        value = fake_input(mode, tensor, _within(tensor, dynamic))
        recorder.input(next(names), value)
        return value

    fake_args, fake_kwargs = pytree.tree_map_only(Tensor, fake, (args, kwargs))
    inputs = list(recorder.graph.nodes)
    before = attributes_of(model)
    with attributes_restored(*reachable(model)), _active(model, recorder, mode):
        leaves, result = pytree.tree_flatten(_run(model, fake_args, fake_kwargs))
        note_clearing(model, recorder)
        returned = [recorder.node(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        refuse_memory(model, recorder, before, lambda: model(*fake_args, **fake_kwargs))
        buffers_to_stacks(recorder.graph, returned)
        merge_fills(recorder.graph, returned)
    return _trace(recorder, inputs, returned, result, _arguments(args, kwargs))


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    try:
        return model(*args, **kwargs)
    except SnncompileError:
        raise
    except Exception as error:
        raise _explained(model, error) from error


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return Arguments(spec, constants, tensors)


def _trace(
    recorder: LoweringRecorder,
    inputs: list[fx.Node],
    returned: list[Any],
    result: pytree.TreeSpec,
    arguments: Arguments,
) -> Trace:
    return Trace(
        graph=recorder.graph,
        inputs=inputs,
        states=recorder.states,
        finished=recorder.finished,
        leaves=returned,
        result=result,
        arguments=arguments,
        constants=recorder.constants,
        measured=recorder.measured,
        single_step=recorder.single_step,
        sequence_layers=recorder.sequence_layers,
        whole=recorder.whole,
    )


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


@contextmanager
def _active(model: nn.Module, recorder: LoweringRecorder, mode: FakeTensorMode) -> Generator[None]:
    """Everything that must be in place while a model runs on fake tensors and is recorded."""
    for prefix, module in named_modules(model).items():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                recorder.parameter(f"{prefix}.{name}".lstrip("."), value)
    with ExitStack() as stack:
        stack.enter_context(_quiet_logger("torch._subclasses.fake_tensor"))
        for name, fake in stack.enter_context(fake_parameters(model, mode)).items():
            recorder.parameter(name, fake)
        for module in model.modules():
            frontend = covering(module)
            if frontend is not None:
                frontend.begin(module)
        stack.enter_context(mode)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(modules_recorded(recorder))
        stack.enter_context(functions_intercepted(recorded_whole(recorder)))
        stack.enter_context(recorder)
        yield


@contextmanager
def _quiet_logger(name: str) -> Generator[None]:
    """Torch logs what fails on fake tensors; here a failure is an answer, told in our own error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


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

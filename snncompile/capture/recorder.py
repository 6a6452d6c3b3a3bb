"""Records what a model computes, by running it on fake tensors.

A `Recorder` is a TorchFunctionMode: while it is active every torch call, also a method or an
operator, is executed on fake tensors (shapes and dtypes, no data) and written to an fx graph.
Python sees real tensor objects, so loops over them, shape arithmetic and ``isinstance`` just
work; a size stays symbolic until Python truly needs it as an int.
"""

import operator
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from snncompile.capture.bindings import Bindings, Maker
from snncompile.capture.canonical import (
    COPIES,
    UNRECORDED,
    Call,
    axis_of,
    canonical,
    index_along,
    name_of,
)
from snncompile.capture.sizes import SizeNodes
from snncompile.capture.states import RecordedState
from snncompile.errors import CaptureError


class Recorder(TorchFunctionMode):
    """Writes one run of a model to `graph`.

    Attributes:
        graph: Every call so far, in execution order.
        names: The qualified name of every module of the model, by id.
        states: States that frontends asked for, by label.
        finished: For a state's placeholder, the node of its latest value.
        constants: Tensors that the model closed over, by the target of their nodes.
        measured: Nodes whose size or iteration the model asked for.
        single_step: Layers of a library, and the torch.nn class that is one step of each.
        sequence_layers: Those of them that take whole sequences.
        whole: call_module nodes that read a whole sequence.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.names = names
        self.states = dict[str, RecordedState]()
        self.finished: dict[fx.Node, fx.Node] = {}
        self.constants: dict[str, Tensor] = {}
        self.measured: set[fx.Node] = set()
        self.single_step: dict[str, type[nn.Module]] = {}
        self.sequence_layers: set[str] = set()
        self.whole: set[str] = set()
        self._bindings = Bindings()
        self._stack: list[str] = []
        self._paused = False
        self._per_step = False
        self._sizes = SizeNodes(self._function)

    def bind(self, tensor: object, node: fx.Node | Maker) -> None:
        """Say which node (or what makes it on demand) computes a tensor."""
        self._bindings.bind(tensor, node)

    def input(self, name: str, tensor: Tensor) -> fx.Node:
        """A placeholder for a tensor of the call."""
        node = self.graph.placeholder(name)
        node.meta["val"] = tensor
        self.bind(tensor, node)
        self._sizes.read_from(node, tensor)
        return node

    def parameter(self, target: str, tensor: Tensor) -> None:
        """A parameter or buffer; its node is made when it is used."""

        def make() -> fx.Node:
            node = self.graph.create_node("get_attr", target)
            node.meta["val"] = tensor
            return node

        self.bind(tensor, make)

    def node(self, tensor: Tensor) -> fx.Node:
        """The node that computes a tensor."""
        known = tensor in self._bindings
        return self._bindings.node(tensor) if known else self._constant(tensor)

    def _constant(self, tensor: Tensor) -> fx.Node:
        if isinstance(tensor, FakeTensor):
            real = getattr(tensor, "constant", None)
            if real is None:
                raise CaptureError(
                    f"a tensor of shape {tuple(tensor.shape)} came from outside torch's functions "
                    f"in {self._place()}; build it with torch functions or pass it as an input"
                )
            tensor = real
        target = f"constant{len(self.constants)}"
        self.constants[target] = tensor
        node = self.graph.create_node("get_attr", target)
        node.meta["val"] = tensor
        self.bind(tensor, node)
        return node

    def _place(self) -> str:
        return f"module '{self._stack[-1]}'" if self._stack and self._stack[-1] else "the model"

    @property
    def recording(self) -> bool:
        """Whether torch calls are recorded at the moment."""
        return not self._paused

    @contextmanager
    def paused(self) -> Generator[None]:
        """Run torch calls without recording them."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a torch call and record it, when it made or changed a tensor."""
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        operands = _tensors((args, kwargs))
        versions = [operand._version for operand in operands]
        known = {id(operand) for operand in operands if operand in self._bindings}
        result = func(*args, **kwargs)
        changed = [o for o, v in zip(operands, versions, strict=True) if o._version != v]
        same = isinstance(result, Tensor) and id(result) in known and not changed
        if not same and name_of(func) not in UNRECORDED:
            self._note(func, args, kwargs, result, changed)
        return result

    def _note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,  # noqa: ANN401
        changed: list[Tensor],
    ) -> None:
        name, made = name_of(func), _tensors(result)
        if not made and not changed:
            self._note_measurement(name, _tensors((args, kwargs)))
        elif name == "unbind":
            self._bind_parts(args[0], axis_of(args, kwargs), made)
        elif name in COPIES and isinstance(result, Tensor) and not changed:
            self._copy(result, args[0])
        else:
            self._record(func, args, kwargs, result if made else changed[0], changed)

    def _copy(self, copy: Tensor, source: Tensor) -> None:
        if source in self._bindings:
            self._bindings.share(copy, source)
        else:
            self.bind(copy, self.node(source))

    def _record(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,  # noqa: ANN401
        changed: list[Tensor],
    ) -> None:
        if len(changed) > 1:
            raise CaptureError(f"{name_of(func)} in {self._place()} writes into several tensors")
        call = canonical(func, args, kwargs, result)
        node = self.emit(call, result)
        for tensor in changed:
            self._forget_aliases(tensor, name_of(func))
        if changed:
            if changed[0].dtype != node.meta["val"].dtype:
                node = self.emit(
                    Call("call_method", "to", (node, changed[0].dtype), {}), changed[0]
                )
            self.bind(changed[0], node)

    def _forget_aliases(self, changed: Tensor, name: str) -> None:
        """What shares memory with a written tensor changed unseen: reading it later is refused."""
        place = self._place()

        def stale() -> fx.Node:
            raise CaptureError(
                f"a tensor is read after {name} in {place} wrote into a view of it, or into what "
                "it is a view of; use the form that returns a new tensor"
            )

        self._bindings.spoil_aliases(changed, stale)

    def emit(self, call: Call, result: Any) -> fx.Node:  # noqa: ANN401
        """Append a node for a call and bind the tensors of its result to it."""
        args = map_aggregate(call.args, self._argument)
        kwargs = map_aggregate(call.kwargs, self._argument)
        node = self.graph.create_node(call.op, call.target, args, dict(kwargs))
        self._annotate(node, result)
        if isinstance(result, Tensor):
            if not torch.is_grad_enabled() and result.is_floating_point():
                node = self._function(torch.detach, (node,), result)
            self.bind(result, node)
        elif isinstance(result, (tuple, list)):
            self._bind_items(node, result)
        return node

    def _bind_items(self, node: fx.Node, result: Any) -> None:  # noqa: ANN401
        for i, item in enumerate(result):
            if isinstance(item, Tensor):
                self.bind(item, self._function(operator.getitem, (node, i), item))

    def _function(
        self, function: Callable[..., Any], args: tuple[Any, ...], result: object
    ) -> fx.Node:
        return self._annotate(self.graph.call_function(function, args), result)

    def _annotate(self, node: fx.Node, result: object) -> fx.Node:
        node.meta["val"] = result
        node.meta["module"] = self._stack[-1] if self._stack else ""
        node.meta["per_step"] = self._per_step
        return node

    def _argument(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, SymInt):
            return self._sizes.node(value, self._place())
        if isinstance(value, torch.Size):
            return tuple(self._argument(size) for size in value)
        return value

    def _bind_parts(self, tensor: Tensor, axis: int, parts: list[Tensor]) -> None:
        """Bind each part of an unbound tensor to an index that is recorded when it is used."""
        source = self.node(tensor)
        self.measured.add(source)
        for i, part in enumerate(parts):
            self.bind(part, self._indexed(source, axis, i, part))

    def _indexed(self, source: fx.Node, axis: int, i: int, part: Tensor) -> Callable[[], fx.Node]:
        def make() -> fx.Node:
            index = index_along(axis, i)
            return self._function(operator.getitem, (source, index), part)

        return make

    def _note_measurement(self, name: str, operands: list[Tensor]) -> None:
        """Remember whose size the model asked for: its time axis is then as long as its input's."""
        if name in {"size", "shape", "len"}:
            for operand in operands:
                found = self._bindings.made(operand)
                if found is not None:
                    self.measured.add(found)

    @contextmanager
    def inside(self, module: nn.Module) -> Generator[None]:
        """Nodes recorded here come from this module."""
        name = self.names.get(id(module), self._stack[-1] if self._stack else "")
        self._stack.append(name)
        try:
            yield
        finally:
            self._stack.pop()

    def call_module(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Callable[[], Any],
    ) -> Any:  # noqa: ANN401
        """Record a call of a module as one node; `run` computes its fake result."""
        name = self.names.get(id(module))
        if name is None:
            raise CaptureError(
                f"{type(module).__name__} is called in {self._place()} but is not a submodule of "
                "the model; register it as an attribute of the model"
            )
        with self.paused():
            result = run()
        node = self.emit(Call("call_module", name, args, kwargs), result)
        node.meta["module"] = name
        return result


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]

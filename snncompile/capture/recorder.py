"""Records what a model computes, by running it on fake tensors.

A `Recorder` is a TorchFunctionMode: while it is active every torch call, also a method or an
operator, is executed on fake tensors (shapes and dtypes, no data) and written to an fx graph.
Python sees real tensor objects, so loops over them, shape arithmetic and ``isinstance`` just
work; a size stays symbolic until Python truly needs it as an int.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from snncompile.capture.canonical import COPIES, UNRECORDED, Call, canonical, index_along, name_of
from snncompile.errors import CaptureError


@dataclass(frozen=True)
class RecordedState:
    """A state that a frontend asked for.

    Attributes:
        node: The placeholder that stands for its value before the first step.
        label: Module and key, e.g. ``layer1.lif.membrane``.
        initial: The number that fills it, or the node that computes it.
        carried: It survives the call.
    """

    node: fx.Node
    label: str
    initial: float | fx.Node
    carried: bool


class Recorder(TorchFunctionMode):
    """Writes one run of a model to `graph`."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.names = names
        self.states: dict[str, RecordedState] = {}
        self.finished: dict[fx.Node, fx.Node] = {}
        self.constants: dict[str, Tensor] = {}
        self.measured: set[fx.Node] = set()
        self.single_step: dict[str, type[nn.Module]] = {}
        self.sequence_layers: set[str] = set()
        self.whole: set[str] = set()
        self._nodes: dict[int, fx.Node | Callable[[], fx.Node]] = {}
        self._alive: list[object] = []
        self._stack: list[str] = []
        self._paused = False
        self._per_step = False
        self._sizes: dict[str, fx.Node] = {}
        self._size_sources: list[tuple[fx.Node, Tensor]] = []

    # What happens to a tensor -----------------------------------------------------------------

    def bind(self, tensor: object, node: fx.Node | Callable[[], fx.Node]) -> None:
        """Say which node (or what makes it on demand) computes a tensor."""
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def input(self, name: str, tensor: Tensor) -> fx.Node:
        """A placeholder for a tensor of the call."""
        node = self.graph.placeholder(name)
        node.meta["val"] = tensor
        self.bind(tensor, node)
        self._size_sources.append((node, tensor))
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
        found = self._nodes.get(id(tensor))
        if found is None:
            return self._constant(tensor)
        if not isinstance(found, fx.Node):
            found = found()
            self._nodes[id(tensor)] = found
        return found

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

    # Recording ----------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
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
        operands = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        versions = [operand._version for operand in operands]
        before = {id(operand): self._nodes.get(id(operand)) for operand in operands}
        result = func(*args, **kwargs)
        changed = [o for o, v in zip(operands, versions, strict=True) if o._version != v]
        name = name_of(func)
        if name in UNRECORDED:
            return result
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not leaves and not changed:
            self._note_measurement(name, operands)
            return result
        if name in {"unbind", "iter"}:
            return self._unbind(args, kwargs, result)
        if not changed and name in COPIES and isinstance(result, Tensor):
            self.bind(result, self._nodes.get(id(args[0])) or self.node(args[0]))
            return result
        if not changed and isinstance(result, Tensor) and before.get(id(result)) is not None:
            return result
        self._record(func, args, kwargs, result if leaves else changed[0], changed)
        return result

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

        memory = changed.untyped_storage()._cdata
        for other in self._alive:
            shares = isinstance(other, Tensor) and other is not changed
            if shares and other.untyped_storage()._cdata == memory:
                self._nodes[id(other)] = stale

    def emit(self, call: Call, result: Any) -> fx.Node:  # noqa: ANN401
        """Append a node for a call and bind the tensors of its result to it."""
        args = fx.node.map_aggregate(call.args, self._argument)
        kwargs = fx.node.map_aggregate(call.kwargs, self._argument)
        node = self.graph.create_node(call.op, call.target, args, dict(kwargs))  # type: ignore[arg-type]
        self._annotate(node, result)
        if isinstance(result, Tensor):
            if not torch.is_grad_enabled() and result.is_floating_point():
                node = self._annotate(self.graph.call_function(torch.detach, (node,)), result)
            self.bind(result, node)
        elif isinstance(result, (tuple, list)):
            self._bind_items(node, result)
        return node

    def _bind_items(self, node: fx.Node, result: Any) -> None:  # noqa: ANN401
        for i, item in enumerate(result):
            if isinstance(item, Tensor):
                part = self._annotate(self.graph.call_function(operator.getitem, (node, i)), item)
                self.bind(item, part)

    def _annotate(self, node: fx.Node, result: object) -> fx.Node:
        node.meta["val"] = result
        node.meta["module"] = self._stack[-1] if self._stack else ""
        node.meta["per_step"] = self._per_step
        return node

    def _argument(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, SymInt):
            return self._size(value)
        if isinstance(value, torch.Size):
            return tuple(self._argument(size) for size in value)
        return value

    def _unbind(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:  # noqa: ANN401
        """Bind each part of an unbound tensor to an index that is recorded when it is used."""
        tensor = args[0]
        axis = kwargs.get("dim", args[1] if len(args) > 1 else 0) % tensor.dim()
        source = self.node(tensor)
        self.measured.add(source)
        parts = list(result)
        for i, part in enumerate(parts):
            self.bind(part, self._indexed(source, axis, i, part))
        return iter(parts) if not isinstance(result, (tuple, list)) else result

    def _indexed(self, source: fx.Node, axis: int, i: int, part: Tensor) -> Callable[[], fx.Node]:
        def make() -> fx.Node:
            index = index_along(axis, i)
            return self._annotate(self.graph.call_function(operator.getitem, (source, index)), part)

        return make

    def _note_measurement(self, name: str, operands: list[Tensor]) -> None:
        """Remember whose size the model asked for: its time axis is then as long as its input's."""
        if name in {"size", "shape", "len"}:
            for operand in operands:
                found = self._nodes.get(id(operand))
                if isinstance(found, fx.Node):
                    self.measured.add(found)

    def _size(self, size: SymInt) -> int | fx.Node:
        """A node for a symbolic size: that of an input's dimension, or arithmetic on such."""
        constant = size.node.maybe_as_int()
        if constant is not None:
            return int(constant)
        key = str(size.node.expr)
        if key not in self._sizes:
            self._sizes[key] = self._size_node(size)
        return self._sizes[key]

    def _size_node(self, size: SymInt) -> fx.Node:
        key = str(size.node.expr)
        for source, tensor in self._size_sources:
            for i, known in enumerate(tensor.shape):
                if isinstance(known, SymInt) and str(known.node.expr) == key:
                    node = self.graph.call_function(torch.ops.aten.sym_size.int, (source, i))
                    return self._annotate(node, size)
        factors = (
            [
                SymInt(size.node.wrap_int(1).shape_env.create_symintnode(f, hint=None).node)
                for f in size.node.expr.args
            ]
            if size.node.expr.is_Mul
            else []
        )
        if not factors:
            raise CaptureError(f"the size {key} in {self._place()} is not a product of input sizes")
        product: int | fx.Node = 1
        for factor in factors:
            part = self._size(factor)
            product = (
                part
                if product == 1
                else self._annotate(self.graph.call_function(operator.mul, (product, part)), size)
            )
        return product  # type: ignore[return-value]

    # Modules ------------------------------------------------------------------------------------

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[str]:
        """Nodes recorded here come from this module."""
        name = self.names.get(id(module), self._stack[-1] if self._stack else "")
        self._stack.append(name)
        try:
            yield name
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

"""Turns a graph into a Python function, with modules looked up on the model at every call.

Nothing is copied: the generated source says ``self.layer1.conv(x)``, so moving the model,
replacing a parameter or parametrizing one is seen by the next call. The source is known to
`linecache`: tracebacks and debuggers show its lines.
"""

import itertools
import linecache
from collections.abc import Callable
from operator import getitem
from typing import Any, Final, cast
from weakref import WeakKeyDictionary, finalize

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.graph import CodeGen
from torch.fx.node import map_aggregate

from snncompile.ir.program import Program, output_of
from snncompile.kernels.tracing import while_tracing


class _Root:
    def __repr__(self) -> str:
        return "self"


ROOT: Final = _Root()
"""As an argument in a graph: the root itself, for functions that hand it on."""

_SPELLED = (
    _Root,
    int,
    float,
    str,
    bool,
    type(None),
    complex,
    slice,
    range,
    type(Ellipsis),
    fx.Node,
)
_SPELLED_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)

_keys: "WeakKeyDictionary[fx.Graph, int]" = WeakKeyDictionary()
_functions: dict[int, Callable[..., Any]] = {}
_numbers = itertools.count()


class _BoxedCodeGen(CodeGen):
    """A function that takes its arguments in a list, which it empties: it alone holds them."""

    def gen_fn_def(
        self,
        free_vars: list[str],
        maybe_return_annotation: str,
        *,
        expanded_def: bool = False,
    ) -> str:
        names = ", ".join(name.partition(":")[0] for name in free_vars if name != "self")
        return f"def {self._func_name}(self, box):\n    [{names}] = box; box.clear()"


def compile_graph(program: Program, graph: fx.Graph, *, boxed: bool = False) -> Callable[..., Any]:
    """The function that a graph describes.

    Args:
        program: Gives constants, and the single-step classes of modules that take sequences.
        graph: The graph; it is compiled once, so it must not change afterwards.
        boxed: Take the arguments in a list and empty it, so that they can be freed early.

    Returns:
        ``function(root, *placeholders)``, or ``function(root, [*placeholders])``, which returns
        what the graph's output holds.
    """
    return _functions[_key(program, graph, boxed)]


@while_tracing
def _key(program: Program, graph: fx.Graph, boxed: bool) -> int:
    """Compile a graph that is new; torch.compile runs this while it traces."""
    if graph not in _keys:
        key = next(_numbers)
        writer = _Writer(program)
        if boxed:
            writer.graph.set_codegen(_BoxedCodeGen())
        _functions[key] = writer.function(graph, f"<snncompile {key}>")
        _keys[graph] = key
        finalize(graph, _functions.pop, key)
    return _keys[graph]


class _Global:
    """Stands in a graph for an object that generated code can name but not spell."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.__name__ = str(getattr(value, "__name__", type(value).__name__))
        self.__module__ = str(getattr(value, "__module__", "")).rpartition(".")[2] or "value"

    def __repr__(self) -> str:
        return f"global_{id(self.value):x}_{self.__name__}"

    def __call__(self) -> None:
        """Only names a function; fx wants its target to be callable."""


class _Writer:
    """Rewrites a graph so that fx can print it, then compiles what fx prints."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.globals: dict[str, object] = {}

    def function(self, graph: fx.Graph, filename: str) -> Callable[..., Any]:
        for node in graph.nodes:
            if node.op != "output":
                self.copies[node] = self._copy(node)
        self.graph.output(map_aggregate(output_of(graph), self._argument))
        code = self.graph.python_code("self")
        named = {k: v.value if isinstance(v, _Global) else v for k, v in code.globals.items()}
        lines = code.src.splitlines(keepends=True)
        linecache.cache[filename] = (len(code.src), None, lines, filename)
        scope: dict[str, Any] = {**named, **self.globals}
        exec(compile(code.src, filename, "exec"), scope)  # noqa: S102
        function: Callable[..., Any] = scope["forward"]
        return function

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and str(node.target) in self.program.constants:
            constants: Any = self._named(self.program.constants)
            return self.graph.call_function(getitem, (constants, str(node.target)))
        args: Any = map_aggregate(node.args, self._argument)
        kwargs: Any = map_aggregate(node.kwargs, self._argument)
        op, target = node.op, node.target
        if node.op == "call_module" and str(target) in self.program.single_step:
            layer = self.program.single_step[str(target)]
            args = (self.graph.create_node("get_attr", target), *args)
            op, target = "call_function", _Global(layer.forward)
        elif node.op == "call_function" and not _prints_itself(target):
            target = _Global(target)
        return self.graph.create_node(op, target, args, kwargs, name=node.name)

    def _argument(self, leaf: Any) -> Any:  # noqa: ANN401
        if isinstance(leaf, fx.Node):
            return self.copies[leaf]
        spelled = isinstance(leaf, (*_SPELLED, *_SPELLED_TORCH))
        return cast("object", leaf) if spelled else self._named(leaf)

    def _named(self, value: object) -> _Global:
        named = _Global(value)
        self.globals[repr(named)] = value
        return named


def _prints_itself(target: object) -> bool:
    """Whether fx prints an operator or a torch function of that name right."""
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    known = isinstance(target, OpOverload) or module == "_operator"
    return known or getattr(torch, str(name), None) is target

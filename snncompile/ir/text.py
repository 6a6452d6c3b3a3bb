"""The text form of a program: one line a node, in SSA, used in errors, tests, README and CLI.

::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif0_membrane "lif0.membrane": [N, 4] float32 = 0
    step:
      %0 = 0: Linear(8, 4)(%x)                    # [N, 4]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
    next    %lif0_membrane <- %membrane
    output  out0 = stack(%spikes)

A value is named after what makes it, in the order of the graph, so the text is the same for a
copy, a second capture, or a graph whose nodes fx has named differently. Settings that have their
default are left out.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from snncompile.ir import spelling
from snncompile.ir.names import line_of, value_name, value_names
from snncompile.ir.program import Output, Program, State, is_neuron, origin
from snncompile.ir.spelling import Spelling, Symbols, is_getitem

_COMMENT_COLUMN = 48

_GRADIENT = {"each-step": "each step", "last-step": "the last step", "random-step": "a random step"}


def text(program: Program, mark: fx.Node | None = None) -> str:
    """The text of a program.

    Args:
        program: Any program, also one that the verifier would refuse.
        mark: A node of one of its graphs, to be underlined with carets.

    Returns:
        Its lines, without a newline at the end.
    """
    return "\n".join(_ProgramText(program, mark).lines())


def node_text(node: fx.Node, program: Program | None = None) -> str:
    """The line of one node, without its comment.

    Args:
        node: A node of a program's graph.
        program: With it, layers show their settings.
    """
    return _GraphText(node.graph, program).code(line_of(node))


class _GraphText:
    """The lines of one graph."""

    def __init__(
        self, graph: fx.Graph, program: Program | None = None, symbols: Symbols | None = None
    ) -> None:
        self._graph = graph
        self._program = program
        self._root = program.root if program else None
        self._symbols = symbols or Symbols()
        self._names = value_names(graph)
        self.spell = Spelling(self.name, self._symbols)

    def name(self, node: fx.Node) -> str:
        """The name of a node's value; of its first one if it is a neuron."""
        return f"%{self._names[node][0]}" if node in self._names else f"%{node.name}"

    def code(self, node: fx.Node) -> str:
        """What a node computes: ``%pool = pool: AvgPool2d(2, 2)(%spikes)``."""
        if node.op == "placeholder":
            return f"argument {self.name(node)}"
        if node.op == "output":
            return f"return {self.spell.index(node.args[0])}"
        return f"{self.defined(node)} = {self._expression(node)}"

    def defined(self, node: fx.Node) -> str:
        """The values that a node's line defines."""
        return ", ".join(f"%{name}" for name in self._names[node])

    def comment(self, node: fx.Node) -> str:
        """Shape, and where the node came from when its line does not say so."""
        parts = [self.shape(node)]
        if node.op != "call_module" or origin(node) != node.target:
            parts.append(str(node.meta.get("module") or ""))
        if self._program and node.name in self._program.whole:
            parts.append("whole sequence")
        return ", ".join(part for part in parts if part)

    def shape(self, node: fx.Node) -> str:
        """The shape of a node's value, a neuron's being that of its spikes."""
        value = node.meta.get("val")
        values = value if spelling.is_tuple(value) else (value,)
        shown = values[:1] if is_neuron(node) else values
        return " ".join(self.tensor(item) for item in shown if isinstance(item, Tensor))

    def tensor(self, value: Tensor) -> str:
        """Shape of a tensor, and its dtype unless it is float32."""
        shape = self._symbols.shape(value.shape)
        return shape if value.dtype == torch.float32 else f"{shape} {spelling.dtype(value.dtype)}"

    def nodes(self) -> Iterator[fx.Node]:
        """The nodes that have a line: an item of a neuron is in the neuron's."""
        return (node for node in self._graph.nodes if line_of(node) is node)

    def _expression(self, node: fx.Node) -> str:
        call = self.spell.call(node.args, node.kwargs)
        if is_neuron(node):
            return f"{spelling.function(node.target)}({self._neuron_arguments(node)})"  # type: ignore[arg-type]
        if is_getitem(node):
            return f"{self.spell(node.args[0])}[{self.spell.index(node.args[1])}]"
        if node.op == "call_module":
            return f"{node.target}{self._layer(str(node.target))}({call})"
        if node.op == "call_method":
            rest = self.spell.call(node.args[1:], node.kwargs)
            return f"{self.spell(node.args[0])}.{node.target}({rest})"
        if node.op == "get_attr":
            return f"{self._kind(str(node.target))} {node.target}"
        return f"{spelling.function(node.target)}({call})"  # type: ignore[arg-type]

    def _neuron_arguments(self, node: fx.Node) -> str:
        """Tensors, then the value types, which need no keyword, then numbers and flags."""
        parameters = dict(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
        stands_for: Any = node.kwargs.get("neuron")
        if stands_for is not None:
            parameters = {**parameters, **inspect.signature(stands_for).parameters}
        settings = {
            name: node.kwargs[name]
            for name, parameter in parameters.items()
            if name in node.kwargs and not spelling.same(node.kwargs[name], parameter.default)
        }
        values = [value for value in settings.values() if spelling.is_value_type(value)]
        rest = {k: v for k, v in settings.items() if not spelling.is_value_type(v)}
        return self.spell.call([*node.args, *values], rest)

    def _layer(self, target: str) -> str:
        module = attribute(self._root, target)
        return f": {spelling.layer(module)}" if isinstance(module, nn.Module) else ""

    def _kind(self, target: str) -> str:
        if self._program and target in self._program.constants:
            return "constant"
        value = attribute(self._root, target)
        if isinstance(value, nn.Parameter):
            return "parameter"
        return "buffer" if isinstance(value, Tensor) else "attribute"


class _ProgramText:
    """The lines of a program; wants no rule of the IR to hold."""

    def __init__(self, program: Program, mark: fx.Node | None) -> None:
        self._program = program
        self._mark = None if mark is None else line_of(mark)
        self._symbols = Symbols()
        self._step = _GraphText(program.step, program, self._symbols)
        self._placeholders = {node.name: node for node in program.placeholders()}

    def lines(self) -> Iterator[str]:
        program = self._program
        order = ", captured layer by layer" if program.multi_step else ""
        online = (
            ""
            if program.gradient == "through-time"
            else f", gradient of {_GRADIENT[program.gradient]}"
        )
        yield f"program steps={program.time or 'sequence'}{order}{online}{self._budget()}"
        yield from (f"# {note}" for note in program.notes)
        yield from self._inputs()
        yield from (line for state in program.states for line in self._state(state))
        if program.prologue is not None:
            yield from self._block("prologue", program.prologue)
        yield from self._block("step", program.step)
        yield from self._returned()
        if program.epilogue is not None:
            yield from self._block("epilogue", program.epilogue)

    def _budget(self) -> str:
        asked = self._program.recompute
        known = asked is not None and asked.budget is not None
        return f", kept within {asked.budget} bytes" if asked and known else ""

    def _inputs(self) -> Iterator[str]:
        for item in self._program.inputs:
            kind = f"{item.kind} axis={item.axis}" if item.axis else item.kind
            node = self._placeholders.get(item.name)
            yield from self._line(f"input   %{item.name}: {kind}{self._tensor(node)}", node)

    def _state(self, state: State) -> Iterator[str]:
        node = self._placeholders.get(state.name)
        label = f' "{state.label}"' if state.label != state.name else ""
        tensor = self._tensor(node) or f" {self._symbols.shape(state.shape)}"
        carried = ", carried" if state.carried else ""
        code = f"state   %{state.name}{label}:{tensor} = {self._initial(state)}{carried}"
        yield from self._line(code, node)

    def _initial(self, state: State) -> str:
        if not isinstance(state.initial, str):
            return self._step.spell(float(state.initial))
        for node in self._program.prologue.nodes if self._program.prologue else ():
            if node.name == state.initial:
                return value_name(node)
        return f"%{state.initial}"

    def _tensor(self, node: fx.Node | None) -> str:
        value = node.meta.get("val") if node else None
        if not isinstance(value, Tensor):
            return ""
        return f" {self._symbols.shape(value.shape)} {spelling.dtype(value.dtype)}"

    def _block(self, title: str, graph: fx.Graph) -> Iterator[str]:
        yield f"{title}:"
        is_step = graph is self._program.step
        written = self._step if is_step else _GraphText(graph, self._program, self._symbols)
        for node in written.nodes():
            if is_step and (node.op == "output" or self._is_declared(node)):
                continue
            code, comment = f"  {written.code(node)}", written.comment(node)
            width = len(written.defined(node)) if " = " in code else len(code) - 2
            line = f"{code:<{_COMMENT_COLUMN - 2}}  # {comment}" if comment else code
            yield from self._line(line, node, "  " + "^" * width)

    def _is_declared(self, node: fx.Node) -> bool:
        inputs = {item.name for item in self._program.inputs}
        states = {state.name for state in self._program.states}
        return node.op == "placeholder" and node.name in inputs | states

    def _returned(self) -> Iterator[str]:
        """Next states and outputs, or what the step returns if it is no such pair."""
        program, spell = self._program, self._step.spell
        (node, *_) = program.step.find_nodes(op="output") or [None]
        returned: Any = node.args[0] if node else None
        if not _is_pair(returned, len(program.outputs), len(program.states)):
            yield from self._line(f"return  {spell(returned)}", node)
            return
        for state, value in zip(program.states, returned[1], strict=True):
            yield f"next    %{state.name} <- {spell(value)}"
        yield from self._again()
        for output, value in zip(program.outputs, returned[0], strict=True):
            yield from self._line(_output(output, spell(value)), node)

    def _again(self) -> Iterator[str]:
        """What runs again in the backward pass, and from which values."""
        asked, nodes = self._program.recompute, {n.name: n for n in self._program.step.nodes}
        for segment in asked.segments if asked else ():
            made = [nodes[name] for name in segment.nodes if name in nodes]
            lines = [node for node in self._step.nodes() if node in made]
            values = ", ".join(self._step.defined(n) for n in lines if n.op != "placeholder")
            read = [f"{self._step.spell(nodes[n])} ({_bits(bits)})" for n, bits in segment.keeps]
            yield f"again   {values} from {', '.join(read) or 'inputs'}"

    def _line(self, line: str, node: fx.Node | None, carets: str = "") -> Iterator[str]:
        yield line
        if node is not None and node is self._mark:
            yield carets or "^" * len(line)


def _bits(bits: int) -> str:
    return "1 bit" if bits == 1 else f"{bits} bits"


def _output(output: Output, value: str) -> str:
    axis = f", axis={output.axis}" if output.axis else ""
    return f"output  {output.name} = {output.reduce}({value}{axis})"


def _is_pair(returned: object, outputs: int, states: int) -> bool:
    """Whether the step returns that many outputs and next states."""
    if not spelling.is_tuple(returned):
        return False
    sizes = [len(part) if spelling.is_tuple(part) else -1 for part in returned]
    return sizes == [outputs, states]


def attribute(root: nn.Module | None, target: str) -> object:
    """What a dotted name is on a module: a submodule, a parameter, a buffer; None if nothing."""
    value: object = root
    for part in target.split("."):
        value = getattr(value, part, None)
    return value

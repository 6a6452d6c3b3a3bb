"""Values that are known before a network runs, and buffers that hold them."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from snncompile.ir.operations import is_pure
from snncompile.ir.program import Program, is_neuron
from snncompile.ir.values import StepInterpreter


class Frozen:
    """Reads and writes the numbers of a program whose root is its own.

    Attributes:
        program: The program.
        known: What depends on parameters and buffers alone, by node, as it is now.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.known = known_values(program)
        self._shared: dict[fx.Node, str] = {}

    def wide(self, node: fx.Node) -> Tensor:
        """The value of a known node in float64."""
        value: Tensor = self.known[node]
        return value.detach().double()

    def buffer(self, near: str, name: str, value: Tensor) -> fx.Node:
        """Read a number from a new buffer, at the step graph's insertion point.

        Args:
            near: The parameter, buffer or module beside which, or in which, the buffer is put.
            name: Its name, lengthened if it is taken.
            value: What it holds.

        Returns:
            The node that reads it.
        """
        owner = self._owner(near)
        module = self.program.root.get_submodule(owner)
        while hasattr(module, name):
            name += "_"
        module.register_buffer(name, value.detach().clone())
        node = self.program.step.get_attr(f"{owner}.{name}" if owner else name)
        node.meta["module"] = owner
        self.known[node] = value
        return node

    def shared(self, source: fx.Node, near: str, name: str, value: Tensor) -> fx.Node:
        """Like `buffer`, but one buffer for all that is made of `source`."""
        if source not in self._shared:
            node = self.buffer(near, name, value)
            self._shared[source] = str(node.target)
            return node
        node = self.program.step.get_attr(self._shared[source])
        self.known[node] = value
        return node

    def _owner(self, near: str) -> str:
        """The module of that name, or that has a tensor of that name; the root for a constant."""
        if near in self.program.constants:
            return ""
        value: object = self.program.root
        for part in near.split("."):
            value = getattr(value, part)
        return near if isinstance(value, nn.Module) else near.rpartition(".")[0]


def known_values(program: Program) -> dict[fx.Node, Any]:
    """The value of every node of the step that depends on parameters and buffers alone."""
    interpreter = StepInterpreter(program)
    known: dict[fx.Node, Any] = interpreter.env
    with torch.no_grad():
        for node in program.step.nodes:
            if _is_known(program, node, known):
                known[node] = interpreter.run_node(node)
    return known


def computed(program: Program) -> list[fx.Node]:
    """The calls whose value is known, but which are made anew whenever the program runs."""
    known: dict[fx.Node, None] = {}
    for node in program.step.nodes:
        if _is_known(program, node, known):
            known[node] = None
    return [node for node in known if node.op != "get_attr"]


def _is_known(program: Program, node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    if node.op == "get_attr":
        return True
    if node.op not in ("call_function", "call_method") or is_neuron(node):
        return False
    return all(source in known for source in node.all_input_nodes) and is_pure(program, node)


def freeze(frozen: Frozen) -> int:
    """Put what is known, and is read by what is not, into buffers; returns how many there were."""
    calls = computed(frozen.program)
    inside = {*calls, *frozen.program.step.find_nodes(op="get_attr")}
    count = 0
    for node in calls:
        readers = [user for user in node.users if user not in inside]
        value = frozen.known[node]
        if not readers or not isinstance(value, Tensor):
            continue
        source = _source(node)
        name = getattr(node.target, "__name__", str(node.target))
        with frozen.program.step.inserting_after(node):
            held = frozen.buffer(source, f"{source.rpartition('.')[2]}_{name}", value)
        for reader in readers:
            reader.replace_input_with(node, held)
        count += 1
    return count


def _source(node: fx.Node) -> str:
    """The first parameter or buffer that a known value is computed from."""
    while node.op != "get_attr" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else ""

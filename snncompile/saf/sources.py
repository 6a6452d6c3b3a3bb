"""What every value of a step comes from: parameters, the network's input, or spikes."""

import operator
from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import fx, nn

from snncompile.ir.neurons import delayed_lif, integer_lif, integrator, lif
from snncompile.ir.operations import is_part, is_pure, is_size
from snncompile.ir.program import Program, is_spiking, output_of
from snncompile.ir.text import attribute

Source: TypeAlias = Literal["fixed", "input", "spikes"]
"""Where a value comes from. "fixed" is the same at every step of a sequence, and comes from
parameters or a mask held for the sequence; "input" comes from the network's input and from no
spike; "spikes" depends on what a neuron emitted, in this step or an earlier one."""

SUBTRACTING = (lif, integer_lif, delayed_lif)
"""The neurons that can subtract from their membrane exactly what they emit."""

_RANK: dict[Source, int] = {"fixed": 0, "input": 1, "spikes": 2}


class Sources:
    """Where the values of one program's step come from.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.next = program.next_states()
        self.inputs = {spec.name for spec in program.inputs} - set(_computed(program))
        self.held = dict(_held(program))
        self._of: dict[fx.Node, Source] = dict.fromkeys(program.placeholders(), "fixed")
        while self._sweep():
            pass

    def __getitem__(self, node: fx.Node) -> Source:
        """Where a node's value comes from."""
        return self._of[node]

    def spiking(self, node: fx.Node) -> bool:
        """Whether a value depends on spikes."""
        return self._of[node] == "spikes"

    def learns(self, node: fx.Node) -> bool:
        """Whether a fixed value is computed from a parameter that trains."""
        if node.op == "get_attr":
            value = attribute(self.program.root, str(node.target))
            return isinstance(value, nn.Parameter) and value.requires_grad
        return any(map(self.learns, node.all_input_nodes))

    def _sweep(self) -> bool:
        """Find every value's source from those before it; whether a state's has changed."""
        before = dict(self._of)
        for node in self.program.step.nodes:
            if node.op != "output":
                self._of[node] = self._source(node)
        return before != self._of

    def _source(self, node: fx.Node) -> Source:
        if node in self.held or node.op == "get_attr" or is_size(node):
            return "fixed"
        if node.op == "placeholder":
            following = self.next.get(node.name)
            known: Source = "fixed" if following is None else self._of.get(following, "fixed")
            return "input" if node.name in self.inputs else known
        if is_spiking(node):
            return "spikes"
        sources = (self._of[source] for source in node.all_input_nodes)
        source: Source = max(sources, key=_RANK.__getitem__, default="fixed")
        return "input" if source == "fixed" and not is_pure(self.program, node) else source


def _computed(program: Program) -> Iterator[str]:
    """Static inputs that the prologue computes from anything but the call's tensors."""
    returned = output_of(program.prologue) if program.prologue else ()
    for spec, node in zip(program.inputs, returned, strict=False):
        if spec.kind == "static" and not _reads_data(node):
            yield spec.name


def _reads_data(node: fx.Node) -> bool:
    sizes = is_size(node)
    return node.op == "placeholder" or (not sizes and any(map(_reads_data, node.all_input_nodes)))


def _held(program: Program) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Masks that a state holds for the whole sequence, drawn in its first step, and the state."""
    for name, value in program.next_states().items():
        state = program.placeholder(name)
        if value.target is torch.where and value.args[2] is state:
            (drawn, *_) = value.all_input_nodes
            if drawn.target is operator.lt and drawn.args == (state, 0):
                yield value, state


def emission(node: fx.Node) -> fx.Node | None:
    """The subtracting neuron whose spikes a node is; None for any other node."""
    neuron = node.args[0] if is_part(node) and node.args[1] == 0 else None
    return neuron if isinstance(neuron, fx.Node) and neuron.target in SUBTRACTING else None


def is_read_out(node: fx.Node) -> bool:
    """Whether a node is the membrane of a leaky integrator, which never fires."""
    neuron = node.args[0] if is_part(node) else None
    return isinstance(neuron, fx.Node) and neuron.target is integrator


def owned_states(program: Program) -> dict[fx.Node, fx.Node]:
    """The state placeholders that neurons read as their own, with the neuron."""
    return {
        state: neuron
        for neuron in program.neurons()
        for state in neuron.args[1:]
        if isinstance(state, fx.Node)
    }

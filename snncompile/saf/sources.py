"""What every value of a step comes from: parameters, the network's input, or spikes."""

import operator
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import fx, nn

from snncompile.ir.accumulation import leaky
from snncompile.ir.charges import Charge, Decay, Leak, LeakRate
from snncompile.ir.neurons import delayed_lif, integer_lif, integrator, lif, multi_precision
from snncompile.ir.operations import is_part, is_pure, is_size
from snncompile.ir.program import Program, is_spiking, output_of
from snncompile.ir.text import attribute

Source: TypeAlias = Literal["fixed", "input", "spikes"]
"""Where a value comes from. "fixed" is the same at every step of a sequence, and comes from
parameters or a mask held for the sequence; "input" comes from the network's input and from no
spike; "spikes" depends on what a neuron emitted, in this step or an earlier one."""

SUBTRACTING = (lif, integer_lif, delayed_lif, multi_precision)
"""The neurons that can subtract from their membrane exactly what they emit."""

_RANK: tuple[Source, ...] = ("fixed", "input", "spikes")


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

    def decay_of(self, node: fx.Node) -> Charge:
        """The decay with which what reads a node's value accumulates: that of the last neuron."""
        seen: set[fx.Node] = set()
        waiting, found = [node], [node]
        while waiting:
            other = waiting.pop()
            if other in seen or not self.spiking(other):
                continue
            seen.add(other)
            if emission(other) is not None:
                found.append(other)
            elif other.name in self.next:
                waiting.append(self.next[other.name])
            else:
                waiting += other.all_input_nodes
        last = max(found[1:], key=list(self.program.step.nodes).index)
        return decay_key(last.args[0].kwargs["charge"])  # type: ignore[union-attr]

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
            changes = node.name in self.inputs or following is not None
            known: Source = "fixed" if following is None else self._of.get(following, "fixed")
            return "input" if changes and known == "fixed" else known
        if emits(node):
            return "spikes"
        ranks = [_RANK.index(self._of[source]) for source in node.all_input_nodes]
        source = _RANK[max(ranks, default=0)]
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


def emits(node: fx.Node) -> bool:
    """Whether a node is a neuron that emits spikes, or values that take their place."""
    return is_spiking(node) or node.target in SUBTRACTING


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


def decay_key(charge: Any) -> Charge:  # noqa: ANN401
    """A charge as its decay alone: two that are equal decay alike."""
    fields = charge._asdict()
    if not any(isinstance(field, fx.Node) for field in fields.values()):
        return Decay(leaky(charge).decay)
    if "rate" in fields:
        return LeakRate(fields["rate"])
    return Leak(fields["tau"]) if "tau" in fields else Decay(fields["decay"])

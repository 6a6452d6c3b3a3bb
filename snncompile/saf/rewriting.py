"""The part of the rewrite that both ways of updating weights share: neurons, states, values."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from operator import getitem
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.fx.node import map_arg

from snncompile.ir.accumulation import accumulating, leaky, settled
from snncompile.ir.affine import SUMS, is_synapse
from snncompile.ir.charges import Charge
from snncompile.ir.operations import call_name
from snncompile.ir.program import Dimension, Program, State, origin, value_of
from snncompile.saf.sources import SUBTRACTING, Sources, decay_key, emission, is_read_out
from snncompile.saf.writer import Writer

_DROPPED = ("charge", "detach_membrane", "reset_now", "gain")
"""Settings of a neuron that its accumulating one does without."""


Made: TypeAlias = Callable[[fx.Node], fx.Node]


class Rewriting(ABC):
    """Rewrites a step so that accumulations flow where spikes did; see the subclasses.

    Args:
        program: The program, which the rewrite is known to apply to.
        sources: Where its values come from.
    """

    def __init__(self, program: Program, sources: Sources) -> None:
        self.program = program
        self.sources = sources
        self.writer = Writer(program)
        self.states = {program.placeholder(state.name): state for state in program.states}
        self._values: dict[fx.Node, fx.Node] = dict(self.writer.inputs)
        self._neurons: dict[fx.Node, fx.Node] = {}
        self._states: dict[fx.Node, fx.Node] = {}
        self._accumulations: dict[tuple[fx.Node, Charge], fx.Node] = {}

    @abstractmethod
    def potential(self, current: fx.Node, charge: Charge) -> fx.Node:
        """The accumulation of a neuron's current, as a node of the new step."""

    @abstractmethod
    def read(self, node: fx.Node, decay: Charge) -> fx.Node:
        """The value of a node behind a synapse of spikes, its gradient that of accumulations."""

    @abstractmethod
    def passed(self, node: fx.Node, decay: Charge) -> fx.Node:
        """The accumulation of a stateless call that depends on spikes."""

    # Values ---------------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> fx.Node:
        """The node of the new step that has the same value in every step."""
        if node not in self._values:
            self._values[node] = self._value(node)
        return self._values[node]

    def _value(self, node: fx.Node) -> fx.Node:
        if node in self.states:
            return self._state(node)
        if emission(node) is not None:
            return self._item(node, 0)
        if self._is_membrane(node):
            return self._membrane(node)
        if self.sources.spiking(node) and is_read_out(node):
            return self._read_out(node)
        if self.sources.spiking(node) and self.weighted(node):
            return self.read(node, self.sources.decay_of(node))
        return self.copy(node, self.value)

    def copy(self, node: fx.Node, operand: Made) -> fx.Node:
        """A copy of a node in the new step, reading `operand` of each of its operands."""
        return self.writer.graph.node_copy(node, operand)

    def _state(self, node: fx.Node) -> fx.Node:
        """A state that no rewritten neuron owns; its past is a constant."""
        state = self.states[node]
        made = self.writer.state(state, lambda: self.value(self.sources.next[node.name]))
        constant = self.sources.spiking(node) and value_of(node).is_floating_point()
        return self.writer.call(torch.detach, made) if constant else made

    def _is_membrane(self, node: fx.Node) -> bool:
        source = node.args[0] if node.target is getitem else None
        return isinstance(source, fx.Node) and source.target in SUBTRACTING

    def _membrane(self, node: fx.Node) -> fx.Node:
        """What a rewritten neuron's membrane would have been, after this step."""
        (neuron,) = node.all_input_nodes
        new = self.neuron(neuron)
        spikes = self._part(new, 0)
        settings = {name: new.kwargs.get(name) for name in ("charge", "threshold", "reset")}
        given = {name: value for name, value in settings.items() if value is not None}
        return self.writer.call(settled, *new.args, spikes, **given)

    def _read_out(self, node: fx.Node) -> fx.Node:
        """A leaky integrator's membrane is its potential."""
        (neuron,) = node.all_input_nodes
        charge: Any = neuron.kwargs["charge"]
        potential = self.potential(neuron.args[0], decay_key(charge))  # type: ignore[arg-type]
        gain = leaky(charge).gain
        return (
            potential if gain == 1.0 else self.writer.call(torch.mul, potential, self.setting(gain))
        )

    # Neurons --------------------------------------------------------------------------------------

    def neuron(self, old: fx.Node) -> fx.Node:
        """The accumulating neuron in the place of one of the old step."""
        if old not in self._neurons:
            self._neurons[old] = self._accumulating(old)
        return self._neurons[old]

    def _accumulating(self, old: fx.Node) -> fx.Node:
        charge: Any = old.kwargs["charge"]
        potential = self.potential(old.args[0], decay_key(charge))  # type: ignore[arg-type]
        before = self._before(old)
        settings = {k: self.setting(v) for k, v in old.kwargs.items() if k not in _DROPPED}
        new = self.writer.call(
            accumulating,
            potential,
            before,
            neuron=old.target,
            charge=self.setting(charge),
            **settings,
        )
        new.meta = dict(old.meta)
        return new

    def _before(self, old: fx.Node) -> fx.Node:
        """The state that holds a neuron's accumulation before a step."""
        if old not in self._states:
            state = self.states[old.args[1]]  # type: ignore[index]
            like = self.accumulation_like(old, state)
            following = lambda: self._part(self.neuron(old), 1)  # noqa: E731
            self._states[old] = self.writer.state(like, following)
        return self._states[old]

    def _item(self, node: fx.Node, item: int) -> fx.Node:
        """What a rewritten neuron emits, or the accumulation of it, times the neuron's gain."""
        (neuron,) = node.all_input_nodes
        part = self._part(self.neuron(neuron), item)
        gain = self.setting(neuron.kwargs.get("gain", 1.0))
        return part if gain == 1.0 else self.writer.call(operator.mul, part, gain)

    def _part(self, neuron: fx.Node, item: int) -> fx.Node:
        for user in neuron.users:
            if user.target is getitem and user.args[1] == item:
                return user
        with self.writer.graph.inserting_after(neuron):
            return self.writer.call(getitem, neuron, item)

    def setting(self, value: Any) -> Any:  # noqa: ANN401
        """A neuron's setting, in the new step."""
        return map_arg(value, self.value)

    # Accumulations --------------------------------------------------------------------------------

    def accumulation(self, node: fx.Node, decay: Charge) -> fx.Node:
        """The accumulation of a node of the old step."""
        if (node, decay) not in self._accumulations:
            self._accumulations[node, decay] = self._accumulation(node, decay)
        return self._accumulations[node, decay]

    def _accumulation(self, node: fx.Node, decay: Charge) -> fx.Node:
        neuron = emission(node)
        if neuron is not None and decay_key(neuron.kwargs["charge"]) == decay:
            return self._item(node, 1)
        if node in self.states:
            return self._late(node, decay)
        return (
            self.accumulated(node, self.value(node), decay)
            if self.stops(node)
            else self.passed(node, decay)
        )

    def stops(self, node: fx.Node) -> bool:
        """Whether accumulation begins here: at spikes, and at whatever comes from the input."""
        read = is_read_out(node) or self._is_membrane(node)
        return emission(node) is not None or read or not self.sources.spiking(node)

    def _late(self, node: fx.Node, decay: Charge) -> fx.Node:
        """A delayed accumulation; its past is a constant."""
        following = self.sources.next[node.name]
        neuron = emission(following)
        if neuron is not None and decay_key(neuron.kwargs["charge"]) == decay:
            made = self._before(neuron)
        else:
            state = self.states[node]
            made = self.writer.state(state, lambda: self.accumulation(following, decay))
        return self.writer.call(torch.detach, made)

    def accumulated(self, node: fx.Node, value: fx.Node, decay: Charge) -> fx.Node:
        """The accumulation of a value of the new step that stands for `node`."""
        like = self.accumulation_like(node, None)
        return self.writer.accumulated(value, like, self.setting(decay))[1]

    def accumulation_like(self, node: fx.Node, state: State | None) -> State:
        """What the state of an accumulation is like, from the node that is accumulated."""
        if state is not None:
            owner, _, _ = state.label.rpartition(".")
            label = f"{owner}.accumulation" if owner else "accumulation"
            return State("", label, 0.0, state.shape, state.carried)
        return State("", f"{origin(node)}.accumulation", 0.0, state_shape(node), self.carried)

    @property
    def carried(self) -> bool:
        """Whether the program's neurons carry their states from call to call."""
        return any(state.carried for state in self.states.values())

    # Questions ------------------------------------------------------------------------------------

    def weighted(self, node: fx.Node) -> bool:
        """Whether a parameter acts on what a node reads, since the last neuron."""
        return any(self.learned(other) for other in self.region(node))

    def learned(self, node: fx.Node) -> bool:
        """Whether a call multiplies what it reads by something that learns."""
        if node.op == "call_module":
            return any(True for _ in self.program.module(node).parameters())
        if is_synapse(self.program, node):
            return True
        fixed = (o for o in node.all_input_nodes if self.sources[o] == "fixed")
        return call_name(node) not in SUMS and any(map(self.sources.learns, fixed))

    def factor(self, node: fx.Node) -> float:
        """The number that spikes were multiplied by on the way to a node, by nothing else."""
        if self.stops(node) or node in self.states or is_synapse(self.program, node):
            return 1.0
        varying = [o for o in node.all_input_nodes if self.sources[o] != "fixed"]
        if len(varying) != 1 or len(node.all_input_nodes) != 1 or call_name(node) in SUMS:
            return 1.0
        before = self.factor(varying[0])
        numbers = [a for a in node.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
        if call_name(node) not in ("mul", "truediv") or len(numbers) != 1:
            return before
        return before * numbers[0] if call_name(node) == "mul" else before / numbers[0]

    def unscaled(self, node: fx.Node, leaf: Made) -> fx.Node:
        """A node without its factor, from what `leaf` makes of that where it begins."""
        if self.factor(node) == 1.0:
            return leaf(node)
        (source,) = node.all_input_nodes
        if call_name(node) in ("mul", "truediv"):
            return self.unscaled(source, leaf)
        return self.copy(node, lambda operand: self.unscaled(operand, leaf))

    def parameters(self, node: fx.Node, factor: float) -> tuple[fx.Node | None, fx.Node | None]:
        """Weight and bias of a synapse, its weight times a factor."""
        weight, bias = (self._parameter(node, *which) for which in (("weight", 1), ("bias", 2)))
        scaled = factor != 1.0 and weight is not None
        return (self.writer.call(operator.mul, weight, factor) if scaled else weight), bias

    def _parameter(self, node: fx.Node, name: str, position: int) -> fx.Node | None:
        if node.op == "call_module":
            known = getattr(self.program.module(node), name) is not None
            return self.writer.graph.get_attr(f"{node.target}.{name}") if known else None
        given = node.args[position] if len(node.args) > position else node.kwargs.get(name)
        return self.value(given) if isinstance(given, fx.Node) else None

    def region(self, node: fx.Node) -> Iterable[fx.Node]:
        """The stateless calls between the last neurons, or states, and a node, itself included."""
        seen: dict[fx.Node, None] = {}
        waiting = [node]
        while waiting:
            found = waiting.pop()
            fixed = self.sources[found] == "fixed"
            if found in seen or found in self.states or fixed or self.stops(found):
                continue
            seen[found] = None
            waiting += found.all_input_nodes
        return seen


def state_shape(node: fx.Node) -> tuple[Dimension, ...]:
    """The shape of a state that is like a node's value; only its batch may vary."""
    return "N", *(int(size) for size in value_of(node).shape[1:])

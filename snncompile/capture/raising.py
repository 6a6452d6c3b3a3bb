"""Raises neurons that a person wrote as tensor arithmetic to neurons of the IR.

A state that is charged, compared through a surrogate and reset is a LIF neuron, whoever wrote it::

    charged = decay * membrane + current        # or membrane + current,
    spikes = Surrogate.apply(charged - 1.0)     # or membrane + (current - membrane) / tau
    membrane = charged - spikes                 # or spikes * threshold, or charged * (1 - spikes)

Raised or not, the program computes the same; a raised neuron runs as one scan and passes know it.
"""

import itertools
import operator
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import torch
from torch import fx

from snncompile.ir.charges import Charge, Decay, Integrate, Relax
from snncompile.ir.effects import has_effect
from snncompile.ir.elementwise import is_autograd_function
from snncompile.ir.neurons import lif
from snncompile.ir.program import Program, State
from snncompile.ir.resets import Hard, Reset, Subtract
from snncompile.ir.surrogates import Surrogate
from snncompile.ir.values import refresh

Operand: TypeAlias = fx.Node | float


class _Neuron(NamedTuple):
    """The parts of a matched neuron."""

    charged: fx.Node
    spikes: fx.Node
    following: fx.Node
    current: fx.Node
    charge: Charge
    threshold: Operand
    reset: Reset


def raise_neurons(program: Program) -> int:
    """Replace hand-written LIF neurons by `ir.neurons.lif`, in place.

    Args:
        program: A program fresh from capture; a note is added for every raised neuron.

    Returns:
        How many were raised.
    """
    before = program.states
    states: list[State] = []
    for state in program.states:
        node = program.placeholder(state.name)
        found = _match(node, program.next_states()[state.name])
        states.append(state)
        if found is not None:
            _replace(program, node, found)
            states[-1] = _named(program, node, state, found)
            program.states = (*states, *program.states[len(states) :])
    raised = sum(new is not old for new, old in zip(states, before, strict=True))
    if raised:
        program.step.eliminate_dead_code(lambda node: has_effect(program, node))
        refresh(program)
    return raised


def _named(program: Program, node: fx.Node, state: State, neuron: _Neuron) -> State:
    """The state of a raised neuron, called the membrane it is; a note says so."""
    module = neuron.spikes.meta.get("module", "")
    taken = {other.label for other in program.states}
    labels = (f"{module}.membrane{i or ''}".lstrip(".") for i in itertools.count())
    label = next(label for label in labels if label not in taken)
    node._rename(label.replace(".", "_"))  # pyright: ignore[reportPrivateUsage]
    node.target = node.name
    function = _function(neuron.spikes).__name__
    program.notes.append(f"raised hand-written arithmetic to lif: '{label}', surrogate {function}")
    return replace(state, name=node.name, label=label)


def _match(state: fx.Node, following: fx.Node) -> _Neuron | None:
    """The neuron whose membrane a state is, if its calls have one of the known forms."""
    for charged in state.users:
        for root in (charged, *charged.users):
            found = _charge(root, state)
            if found is None:
                continue
            current, charge = found
            neuron = _fired(root, following, current, charge)
            if neuron is not None and _only_used_inside(neuron, state):
                return neuron
    return None


def _charge(charged: fx.Node, state: fx.Node) -> tuple[fx.Node, Charge] | None:
    if charged.target is not operator.add or len(charged.args) != 2:  # noqa: PLR2004
        return None
    for held, other in (charged.args, charged.args[::-1]):
        if not isinstance(held, fx.Node) or not isinstance(other, fx.Node):
            continue
        if held is state:
            return _relaxed(other, state) or (other, Integrate())
        decay = _factor(held, state)
        if decay is not None:
            return other, Decay(decay)  # type: ignore[arg-type]
    return None


def _relaxed(change: fx.Node, state: fx.Node) -> tuple[fx.Node, Charge] | None:
    """``(current - membrane) / tau``."""
    if change.target is not operator.truediv:  # pyright: ignore[reportUnknownMemberType]
        return None
    difference, tau = change.args
    if not isinstance(difference, fx.Node) or difference.target is not operator.sub:
        return None
    current, held = difference.args
    if held is not state or not isinstance(current, fx.Node) or not _is_constant(tau):
        return None
    return current, Relax(tau)  # type: ignore[arg-type]


def _factor(product: fx.Node, state: fx.Node) -> Operand | None:
    """What a state is multiplied with, if it is a constant."""
    if product.target is not operator.mul or state not in product.args:
        return None
    other = product.args[1] if product.args[0] is state else product.args[0]
    return other if _is_constant(other) else None


def _is_constant(operand: object) -> TypeGuard[Operand]:
    """A number, or computed from parameters alone and without a batch."""
    if not isinstance(operand, fx.Node):
        return isinstance(operand, (int, float))
    if operand.op == "get_attr":
        return True
    return (
        operand.op.startswith("call")
        and all(_is_constant(n) for n in operand.all_input_nodes)
        and bool(operand.all_input_nodes)
    )


def _fired(
    charged: fx.Node, following: fx.Node, current: fx.Node, charge: Charge
) -> _Neuron | None:
    for distance in charged.users:
        if distance.target is not operator.sub or distance.args[0] is not charged:
            continue
        threshold: Any = distance.args[1]
        if not _is_constant(threshold):
            continue
        for spikes in distance.users:
            if is_autograd_function(spikes) and len(spikes.all_input_nodes) == 1:
                reset = _reset(following, charged, spikes, threshold)
                if reset is not None:
                    return _Neuron(charged, spikes, following, current, charge, threshold, reset)
    return None


def _reset(
    following: fx.Node, charged: fx.Node, spikes: fx.Node, threshold: Operand
) -> Reset | None:
    if following.target is operator.sub and following.args[0] is charged:
        taken = following.args[1]
        detach = _emitted(taken, spikes)
        if detach is not None and threshold == 1:
            return Subtract(detach)
        if isinstance(taken, fx.Node) and taken.target is operator.mul and threshold in taken.args:
            other = taken.args[1] if taken.args[0] is threshold else taken.args[0]
            detach = _emitted(other, spikes)
            return None if detach is None else Subtract(detach)
    if following.target is operator.mul and charged in following.args:
        kept = following.args[1] if following.args[0] is charged else following.args[0]
        if isinstance(kept, fx.Node) and kept.target is operator.sub and kept.args[0] == 1:
            detach = _emitted(kept.args[1], spikes)
            return None if detach is None else Hard(0.0, detach)
    return None


def _emitted(operand: Any, spikes: fx.Node) -> bool | None:  # noqa: ANN401
    """Whether an operand is the detached spikes (True), the spikes (False), or neither (None)."""
    if operand is spikes:
        return False
    detached = isinstance(operand, fx.Node) and operand.target is torch.detach
    return True if detached and operand.args[0] is spikes else None


def _only_used_inside(neuron: _Neuron, state: fx.Node) -> bool:
    """The charged membrane and the old one are read by the neuron alone."""
    inside = _between(neuron, state)
    return all(user in inside for node in (state, neuron.charged) for user in node.users)


def _between(neuron: _Neuron, state: fx.Node) -> set[fx.Node]:
    """The neuron's own calls: those that its two results need and that read its state."""
    inside: set[fx.Node] = set()
    waiting = [neuron.spikes, neuron.following]
    while waiting:
        node = waiting.pop()
        if node is not state and node is not neuron.current and node not in inside:
            inside.add(node)
            waiting += node.all_input_nodes
    return inside


def _replace(program: Program, state: fx.Node, neuron: _Neuron) -> None:
    surrogate = Surrogate("function", neuron.spikes.args[1:], _function(neuron.spikes))  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "charge": neuron.charge,
        "threshold": neuron.threshold,
        "reset": neuron.reset,
        "surrogate": surrogate,
    }
    graph = program.step
    later = max(neuron.charged, neuron.spikes, key=list(graph.nodes).index)
    with graph.inserting_after(later):
        node = graph.call_function(lif, (neuron.current, state), settings)
    with graph.inserting_after(node):
        spikes = graph.call_function(operator.getitem, (node, 0))
    with graph.inserting_after(spikes):
        membrane = graph.call_function(operator.getitem, (node, 1))
    for made in (node, spikes, membrane):
        made.meta["module"] = neuron.spikes.meta.get("module", "")
    neuron.spikes.replace_all_uses_with(spikes)
    neuron.following.replace_all_uses_with(membrane)


def _function(spikes: fx.Node) -> type[torch.autograd.Function]:
    """The autograd.Function that a call applies."""
    function = getattr(spikes.target, "__self__", None)
    assert isinstance(function, type)
    assert issubclass(function, torch.autograd.Function)
    return function

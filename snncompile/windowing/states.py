"""The states of a step whose time is gone: where each lives, and what it starts from."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from snncompile.ir.program import Program, State, value_of
from snncompile.windowing.recording import record


def states_of(program: Program) -> dict[fx.Node, State]:
    """The states of a program by their placeholders."""
    nodes = program.placeholders()[len(program.inputs) :]
    return dict(zip(nodes, program.states, strict=True))


def start(neuron: fx.Node, states: Mapping[fx.Node, State], copies: dict[fx.Node, fx.Node]) -> None:
    """Give the states of a neuron that have no value yet their initial one.

    Args:
        neuron: A neuron of the old step.
        states: All states of that step.
        copies: What stands for its nodes in the new one, the neuron's current among them.
    """
    current = neuron.args[0]
    for state in neuron.args[1:]:
        if isinstance(state, fx.Node) and state in states and state not in copies:
            assert isinstance(current, fx.Node)
            like = copies[current]
            copies[state] = record(like.graph, torch.full_like, like, _number(states[state]))


def start_like(state: fx.Node, spec: State, piece: fx.Node) -> fx.Node:
    """The initial value of a map of states, where a map of any number of channels stands.

    Args:
        state: The state's placeholder in the old step.
        spec: The state.
        piece: A value [N, C, h, w] of the new step.
    """

    def filled(values: Tensor) -> Tensor:
        one = torch.full_like(values[:, 0:1], _number(spec))
        return one.expand(-1, int(value_of(state).shape[1]), -1, -1)

    return record(piece.graph, filled, piece)


def _number(state: State) -> float:
    assert not isinstance(state.initial, str)
    return state.initial

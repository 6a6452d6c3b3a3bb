"""What a program consists of, layer by layer: its parameters, shapes and memory of state."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch import Tensor, fx, nn

from snncompile.ir.names import line_of
from snncompile.ir.program import Dimension, Program, State, is_neuron, origin
from snncompile.ir.spelling import Symbols, function, layer


@dataclass(frozen=True)
class Layer:
    """One layer or neuron of a program's step, or a state that belongs to none.

    Attributes:
        name: Where the user has it.
        kind: What it is: ``Linear(784, 10)``, ``lif``, ``state``.
        parameters: How many numbers it learns; shared ones count wherever they are used.
        shape: Shape of its output in one step, "N" being the batch.
        state_bytes: What it remembers from step to step, per sample.
    """

    name: str
    kind: str
    parameters: int
    shape: str
    state_bytes: int


def layers_of(program: Program) -> tuple[Layer, ...]:
    """The layers of a program in execution order.

    A row is a layer, a neuron, or a function that reads parameters, such as a linear map of a
    weight that is the model's own. What merely reshapes or adds has none.

    Args:
        program: Any program that the verifier accepts.

    Returns:
        The rows; then the states that no row computes, as those of a neuron written out.
    """
    symbols, held = Symbols(), _held(program)
    constant = _constant(program)
    rows: list[Layer] = []
    for node in program.step.nodes:
        parameters = _parameters(program, node, constant)
        if not (node.op == "call_module" or is_neuron(node) or (parameters and _computes(node))):
            continue
        if node not in constant:
            count = sum(parameter.numel() for parameter in parameters)
            shape, states = _shape(node, symbols), held.pop(node, 0)
            rows.append(Layer(origin(node), _kind(program, node), count, shape, states))
    return (*rows, *_others(program, held, symbols))


def state_bytes(program: Program, state: State) -> int:
    """What a state takes in memory, per sample."""
    node = next(node for node in program.placeholders() if node.name == state.name)
    value: Tensor = node.meta["val"]
    return prod(_per_sample(size) for size in state.shape) * value.element_size()


def _per_sample(size: Dimension) -> int:
    """A size for a batch of one: 1 for "N", 4 for "4*N"."""
    if isinstance(size, int):
        return size
    factor = re.match(r"(\d+)\*", size)
    return int(factor[1]) if factor else 1


def _held(program: Program) -> dict[fx.Node, int]:
    """Bytes of state by the node that computes the next value."""
    held: dict[fx.Node, int] = {}
    following = program.next_states()
    for state in program.states:
        node = line_of(following[state.name])
        held[node] = held.get(node, 0) + state_bytes(program, state)
    return held


def _others(program: Program, held: dict[fx.Node, int], symbols: Symbols) -> Iterator[Layer]:
    following = program.next_states()
    for state in program.states:
        if line_of(following[state.name]) in held:
            shape = symbols.shape(state.shape)
            yield Layer(state.label, "state", 0, shape, state_bytes(program, state))


def _constant(program: Program) -> set[fx.Node]:
    """The nodes that depend on parameters only: a decay behind a sigmoid, say."""
    constant: set[fx.Node] = set()
    for node in program.step.nodes:
        computed = node.op in {"call_function", "call_method"} and node.all_input_nodes
        if node.op == "get_attr" or (computed and constant.issuperset(node.all_input_nodes)):
            constant.add(node)
    return constant


def _computes(node: fx.Node) -> bool:
    return node.op in {"call_function", "call_method"}


def _parameters(program: Program, node: fx.Node, constant: set[fx.Node]) -> list[nn.Parameter]:
    """The parameters of a layer, or those that a function's arguments are computed from."""
    if node.op == "call_module":
        return list(program.module(node).parameters())
    found: dict[fx.Node, nn.Parameter] = {}
    waiting = [source for source in node.all_input_nodes if source in constant]
    while waiting:
        source = waiting.pop()
        waiting += source.all_input_nodes
        if source.op == "get_attr" and str(source.target) not in program.constants:
            owner, _, name = str(source.target).rpartition(".")
            value: object = getattr(program.root.get_submodule(owner), name)
            if isinstance(value, nn.Parameter):
                found[source] = value
    return list(found.values())


def _kind(program: Program, node: fx.Node) -> str:
    if node.op == "call_module":
        return layer(program.module(node))
    return node.target if isinstance(node.target, str) else function(node.target)


def _shape(node: fx.Node, symbols: Symbols) -> str:
    value: object = node.meta.get("val")
    first = value[0] if is_neuron(node) and isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
    return symbols.shape(first.shape) if isinstance(first, Tensor) else ""

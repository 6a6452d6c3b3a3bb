"""What a well-formed program is: one function a rule, run after every pass.

A rule yields what breaks it: the node to mark, if one is to blame, and a sentence about it.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from snncompile.errors import InvalidProgramError
from snncompile.ir.names import place, value_name
from snncompile.ir.program import Program
from snncompile.ir.spelling import Symbols, dtype, is_getitem, is_tuple
from snncompile.ir.text import attribute, text

Breach: TypeAlias = tuple[fx.Node | None, str]
"""The node that breaks a rule, if it is one node, and what is wrong, to follow its name."""

Rule: TypeAlias = Callable[[Program], Iterable[Breach]]


def verify_program(program: Program) -> None:
    """Check every rule of the IR.

    Args:
        program: The program; it is not changed.

    Raises:
        InvalidProgramError: For the first broken rule. It names the node, and its note is the
            program's text with the node underlined.
    """
    verify_structure(program)
    _check(program, VALUES)


def verify_structure(program: Program) -> None:
    """Check the rules that want no shapes; after a rewrite this comes before shapes are inferred.

    Args:
        program: The program; it is not changed.

    Raises:
        InvalidProgramError: As `verify_program` does.
    """
    _check(program, STRUCTURE)


def _check(program: Program, rules: Sequence[Rule]) -> None:
    for rule in rules:
        for node, problem in rule(program):
            error = InvalidProgramError(f"{place(node) if node else 'the program'} {problem}")
            error.add_note(text(program, mark=node))
            raise error


def _graphs_are_ordered(program: Program) -> Iterator[Breach]:
    """Every value is defined before it is used, in its own graph, which has one output."""
    for name, graph in _graphs(program):
        if len(graph.find_nodes(op="output")) != 1:
            yield None, f"has a {name} without one output node"
            continue
        try:
            graph.lint()
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            yield None, f"has a malformed {name}: {reason}"


def _placeholders_are_declared(program: Program) -> Iterator[Breach]:
    """The placeholders are the inputs, then the states, in that order."""
    declared = [item.name for item in program.inputs] + [state.name for state in program.states]
    nodes = program.placeholders()
    for node, name in zip(nodes, declared, strict=False):
        if node.name != name:
            yield node, f"stands where the placeholder of %{name} belongs"
    for node in nodes[len(declared) :]:
        yield node, "is neither an input nor a state"
    for name in declared[len(nodes) :]:
        yield None, f"declares %{name}, which has no placeholder"


def _labels_are_unique(program: Program) -> Iterator[Breach]:
    """A state's label names one state."""
    counts = Counter(state.label for state in program.states)
    nodes = program.placeholders()[len(program.inputs) :]
    for state, node in zip(program.states, nodes, strict=True):
        if counts[state.label] > 1:
            yield node, f"shares its label {state.label!r} with another state"


def _step_returns_outputs_and_states(program: Program) -> Iterator[Breach]:
    """The step returns ``((outputs...), (next states...))``, all of them nodes."""
    node = program.step.output_node()
    returned: Any = node.args[0]
    if not (is_tuple(returned) and len(returned) == 2 and all(map(is_tuple, returned))):  # noqa: PLR2004
        yield node, "is not a pair of outputs and next states"
        return
    yield from _breaches_of(node, "outputs", returned[0], len(program.outputs))
    yield from _breaches_of(node, "next states", returned[1], len(program.states))


def _breaches_of(node: fx.Node, what: str, values: tuple[Any, ...], count: int) -> Iterator[Breach]:
    """What is wrong with one of the two tuples that the step returns."""
    if len(values) != count:
        yield node, f"returns {len(values)} {what}, but {count} are declared"
    if not all(isinstance(value, fx.Node) for value in values):
        yield node, f"returns {what} that are not values of nodes"


def _targets_exist(program: Program) -> Iterator[Breach]:
    """Modules are on the root; attributes are on the root or among the constants."""
    for _, graph in _graphs(program):
        for node in graph.find_nodes(op="call_module"):
            if not isinstance(attribute(program.root, str(node.target)), nn.Module):
                yield node, f"calls module {node.target!r}, which the model does not have"
        for node in graph.find_nodes(op="get_attr"):
            known = node.target in program.constants
            if not known and attribute(program.root, str(node.target)) is None:
                yield node, f"reads {node.target!r}, which the model does not have"


def _neurons_have_their_arguments(program: Program) -> Iterator[Breach]:
    """A neuron takes a current and its states from nodes, and every setting it needs."""
    for node in program.neurons():
        signature = inspect.signature(_called(node))
        tensors = [
            p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        if len(node.args) != len(tensors):
            expected = f"{len(tensors)}: {', '.join(tensors)}"
            yield node, f"has {len(node.args)} tensor arguments, expected {expected}"
            continue
        for name, value in zip(tensors, node.args, strict=True):
            if not isinstance(value, fx.Node):
                yield node, f"takes its {name} from no node"
        try:
            signature.bind(*node.args, **node.kwargs)
        except TypeError as error:
            yield node, f"has settings that do not fit: {error}"


def _neurons_are_read_by_item(program: Program) -> Iterator[Breach]:
    """A neuron's values are read one by one, by an index that exists."""
    for neuron in program.neurons():
        count = len(neuron.args)
        for user in neuron.users:
            if not is_getitem(user):
                yield user, f"uses all values of {value_name(neuron)} at once; take one by getitem"
            elif user.args[1] not in range(count):
                yield neuron, f"has {count} values, and item {user.args[1]} is read"


def _initial_values_exist(program: Program) -> Iterator[Breach]:
    """A state starts from a number, or from what the prologue returns under that name."""
    returned = program.prologue.output_node().all_input_nodes if program.prologue else []
    names = {node.name for node in returned}
    for state, node in zip(program.states, _state_nodes(program), strict=True):
        if isinstance(state.initial, str) and state.initial not in names:
            yield node, f"starts from %{state.initial}, which no prologue returns"


def _whole_nodes_are_modules(program: Program) -> Iterator[Breach]:
    """What reads the whole sequence is a module called by the step."""
    names = {node.name for node in program.step.find_nodes(op="call_module")}
    for name in sorted(program.whole - names):
        yield None, f"says that %{name} reads the whole sequence, but the step calls no such module"


def _nodes_have_values(program: Program) -> Iterator[Breach]:
    """Every node of the step but the output knows its value's shape and dtype."""
    for node in program.step.nodes:
        if node.op != "output" and "val" not in node.meta:
            yield node, "has no meta['val']; run snncompile.ir.values.refresh"


def _states_keep_their_shape(program: Program) -> Iterator[Breach]:
    """What a step hands on as a state is like the state it was given."""
    for node, value in zip(_state_nodes(program), _next_states(program), strict=True):
        symbols = Symbols()
        given, handed = (_tensor(item.meta["val"], symbols) for item in (node, value))
        if given != handed:
            yield value, f"is {handed}, but the state {value_name(node)} it becomes is {given}"


STRUCTURE: Sequence[Rule] = (
    _graphs_are_ordered,
    _placeholders_are_declared,
    _labels_are_unique,
    _step_returns_outputs_and_states,
    _targets_exist,
    _neurons_have_their_arguments,
    _neurons_are_read_by_item,
    _initial_values_exist,
    _whole_nodes_are_modules,
)
"""The rules about nodes and names, in an order where each may rely on those before it."""

VALUES: Sequence[Rule] = (_nodes_have_values, _states_keep_their_shape)
"""The rules about shapes and dtypes."""


def _graphs(program: Program) -> Iterator[tuple[str, fx.Graph]]:
    """The program's graphs, with what each is called."""
    if program.prologue is not None:
        yield "prologue", program.prologue
    yield "step", program.step
    if program.epilogue is not None:
        yield "epilogue", program.epilogue


def _state_nodes(program: Program) -> list[fx.Node]:
    return program.placeholders()[len(program.inputs) :]


def _next_states(program: Program) -> list[fx.Node]:
    return list(program.next_states().values())


def _called(node: fx.Node) -> Callable[..., object]:
    """The function that a call_function node calls."""
    if isinstance(node.target, str):
        raise TypeError(f"%{node.name} calls no function")
    return node.target


def _tensor(value: object, symbols: Symbols) -> str:
    """A value's shape and dtype, symbolic sizes by name."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{symbols.shape(value.shape)} {dtype(value.dtype)}"

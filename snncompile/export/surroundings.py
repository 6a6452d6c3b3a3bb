"""What a sequence file computes once: before the steps and after them.

Before: the call's tensors come in as the model takes them, the prologue makes the steps' inputs
and some initial states of them, and sequences get their time axis in front. After: the outputs
are stacked, summed or averaged over time, and the epilogue makes the model's result of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from snncompile.errors import ExportError
from snncompile.export.dimensions import Dimensions
from snncompile.export.draft import Draft
from snncompile.export.emitter import Emitter, Written
from snncompile.export.graph import GraphWriter, Value, identifier
from snncompile.export.over_time import reduced
from snncompile.export.timeline import Timeline
from snncompile.ir.program import Input, Program, State, output_of


@dataclass
class Before:
    """What the steps start from.

    Attributes:
        steps: The number of steps, an int64 vector of one element.
        sequences: The steps' inputs that have a time axis, it being the first.
        invariants: The steps' inputs that have none.
        initial: The value of every state before the first step, by placeholder.
        extras: What the prologue hands to the epilogue.
        results: The names kept for what the model returns.
    """

    steps: str = ""
    sequences: dict[fx.Node, Value] = field(default_factory=dict[fx.Node, Value])
    invariants: dict[fx.Node, Value] = field(default_factory=dict[fx.Node, Value])
    initial: dict[fx.Node, str] = field(default_factory=dict[fx.Node, str])
    extras: list[Value] = field(default_factory=list[Value])
    results: list[str] = field(default_factory=list[str])


def write_before(
    emitter: Emitter, draft: Draft, dimensions: Dimensions, *, unrolled: bool = False
) -> Before:
    """Write the inputs, the prologue and the initial states.

    Args:
        emitter: Writes the nodes.
        draft: The main graph.
        dimensions: How sizes are declared.
        unrolled: The number of steps is that of the program, not that of an input.

    Raises:
        ExportError: A node of the prologue has no recipe; nothing says how many steps there are.
    """
    program, before = emitter.program, Before()
    placeholders = program.placeholders()
    inputs, states = placeholders[: len(program.inputs)], placeholders[len(program.inputs) :]
    values = _prologue(emitter, draft, dimensions) or _call_inputs(program, draft, dimensions)
    before.results = [draft.graph.names.take(name) for name in result_names(program)]
    for spec, node, value in zip(program.inputs, inputs, values, strict=False):
        _step_input(draft.graph, before, spec, node, value)
    sequences = {} if unrolled else before.sequences
    before.steps = _steps(program, draft.graph, sequences)
    computed = iter(values[len(inputs) :])
    for state, node in zip(program.states, states, strict=True):
        given = next(computed) if isinstance(state.initial, str) else None
        before.initial[node] = _initial(draft, dimensions, state, node, given)
    before.extras = list(computed)
    return before


def result_names(program: Program) -> list[str]:
    """What the model's results are called in a file."""
    if program.epilogue is None:
        return [spec.name for spec in program.outputs]
    return [f"out{i}" for i in range(len(output_of(program.epilogue)))]


def _call_inputs(program: Program, draft: Draft, dimensions: Dimensions) -> list[Value]:
    """Without a prologue the call's tensors are the steps' inputs."""
    values: list[Value] = []
    for spec, node in zip(program.inputs, program.placeholders(), strict=False):
        name, like = draft.graph.names.take(identifier(spec.name)), node.meta["val"]
        static = spec.kind == "static"
        info = (
            dimensions.step(name, like)
            if static
            else dimensions.sequence(name, like, program.time, spec.axis)
        )
        draft.inputs.append(info)
        values.append(Value(name, like))
    return values


def _prologue(emitter: Emitter, draft: Draft, dimensions: Dimensions) -> list[Value] | None:
    graph = emitter.program.prologue
    if graph is None:
        return None
    env: dict[fx.Node, Written] = {}
    for node in graph.find_nodes(op="placeholder"):
        name, like = draft.graph.names.take(identifier(node.name)), node.meta["val"]
        draft.inputs.append(dimensions.step(name, like))
        env[node] = Value(name, like)
    return _written(emitter, draft.graph, graph, env)


def _written(
    emitter: Emitter, graph: GraphWriter, source: fx.Graph, env: dict[fx.Node, Written]
) -> list[Any]:
    """Append the nodes of a graph; returns what it returns, tensors as values."""
    emitter.fold(source)

    def lookup(node: fx.Node) -> object:
        return emitter.known(node) if emitter.is_known(node) else env[node]

    for node in source.nodes:
        if node.op.startswith("call") and not emitter.is_known(node):
            env[node] = emitter.write(graph, node, lookup)
    return [_result(emitter, graph, env, item) for item in output_of(source)]


def _result(
    emitter: Emitter, graph: GraphWriter, env: dict[fx.Node, Written], item: object
) -> object:
    if not isinstance(item, fx.Node):
        return item
    if not emitter.is_known(item):
        return env[item]
    weight = emitter.known(item)
    if not isinstance(weight, Value):
        return weight
    return Value(graph.weight(weight.name, weight.tensor), weight.like)


def _step_input(
    graph: GraphWriter, before: Before, spec: Input, node: fx.Node, value: Value
) -> None:
    like: Tensor = node.meta["val"]
    if spec.kind == "static":
        before.invariants[node] = Value(value.name, like)
        return
    name, axis = value.name, spec.axis % (like.dim() + 1)
    if axis:
        order = [axis, *(i for i in range(like.dim() + 1) if i != axis)]
        name = graph.op("Transpose", name, perm=order)
    before.sequences[node] = Value(name, like)


def _steps(program: Program, graph: GraphWriter, sequences: Mapping[fx.Node, Value]) -> str:
    for value in sequences.values():
        return graph.op("Shape", value.name, start=0, end=1)
    if program.time is None:
        raise ExportError(
            "export: no input is a sequence and the number of steps is not fixed; capture the "
            "model with time_steps"
        )
    return graph.ints(program.time)


def _initial(
    draft: Draft, dimensions: Dimensions, spec: State, node: fx.Node, computed: Value | None
) -> str:
    """The value of a state before the first step: an input, unless the prologue computes it."""
    follow = draft.graph.names.take(f"{identifier(spec.label)}_next")
    if computed is None:
        name = draft.graph.names.take(identifier(spec.label))
        draft.inputs.append(dimensions.step(name, node.meta["val"]))
    else:
        name = computed.name
    draft.states.append((name, follow))
    return name


def write_after(draft: Draft, dimensions: Dimensions, timeline: Timeline, before: Before) -> None:
    """Write the reductions over time, the epilogue, and the model's outputs."""
    program = timeline.emitter.program
    values: list[Any] = [
        reduced(timeline, dimensions, spec, node)
        for spec, node in zip(program.outputs, output_of(program.step)[0], strict=True)
    ]
    if program.epilogue is not None:
        values = _epilogue(timeline, program.epilogue, [*values, *before.extras])
    for name, value in zip(before.results, values, strict=True):
        if isinstance(value, Value):
            draft.output(value.name, dimensions.step(name, value.tensor))


def _epilogue(timeline: Timeline, graph: fx.Graph, values: Sequence[Value]) -> list[Any]:
    env: dict[fx.Node, Written] = dict(
        zip(graph.find_nodes(op="placeholder"), values, strict=False)
    )
    return _written(timeline.emitter, timeline.graph, graph, env)

"""The step form: one time step as a file, every state an input and an output.

The caller owns the loop, feeds ``<state>_next`` back as ``<state>``, and applies what the model
did with the outputs of all steps.
"""

from torch import fx

from snncompile.errors import ExportError
from snncompile.export.dimensions import Dimensions
from snncompile.export.draft import Draft
from snncompile.export.emitter import Emitter, Written
from snncompile.export.graph import GraphWriter, Value, identifier
from snncompile.ir.program import Program, output_of


def write_step(
    emitter: Emitter, graph: GraphWriter, dimensions: Dimensions, probes: tuple[fx.Node, ...] = ()
) -> Draft:
    """Write a program's step as a main graph.

    Args:
        emitter: Writes the nodes.
        graph: An empty main graph.
        dimensions: How sizes are declared.
        probes: Nodes whose values become further outputs, ``probe0`` and so on.

    Returns:
        The graph with its interface.

    Raises:
        ExportError: A node has no recipe, or the inputs of the steps are computed before them.
    """
    program = emitter.program
    check_inputs_are_the_calls(program)
    emitter.fold(program.step)
    draft = Draft(graph)
    env = _placeholders(program, draft, dimensions)

    def lookup(node: fx.Node) -> object:
        return emitter.known(node) if emitter.is_known(node) else env[node]

    for node in program.step.nodes:
        if node.op.startswith("call") and not emitter.is_known(node):
            env[node] = emitter.write(graph, node, lookup)
    _outputs(emitter, draft, dimensions, env)
    for i, node in enumerate(probes):
        draft.output(
            _named(emitter, graph, env, node), dimensions.step(f"probe{i}", node.meta["val"])
        )
    return draft


def check_inputs_are_the_calls(program: Program) -> None:
    """Refuse a program whose steps read something that is computed once before them."""
    if program.prologue is None:
        return
    computed = output_of(program.prologue)[: len(program.inputs)]
    if any(value.op != "placeholder" for value in computed):
        names = ", ".join(spec.name for spec in program.inputs)
        raise ExportError(
            f"export: the step's inputs ({names}) are computed from the call's tensors once "
            "before the steps, which a step file cannot hold; export with form='sequence'"
        )


def _placeholders(program: Program, draft: Draft, dimensions: Dimensions) -> dict[fx.Node, Written]:
    names = draft.graph.names
    env: dict[fx.Node, Written] = {}
    labels = [spec.name for spec in program.inputs] + [s.label for s in program.states]
    for node, label in zip(program.placeholders(), labels, strict=True):
        name = names.take(identifier(label))
        env[node] = Value(name, node.meta["val"])
        draft.inputs.append(dimensions.step(name, node.meta["val"]))
    states = draft.inputs[len(program.inputs) :]
    draft.states = [(info.name, names.take(f"{info.name}_next")) for info in states]
    for spec in program.outputs:
        names.take(spec.name)
    return env


def _outputs(
    emitter: Emitter, draft: Draft, dimensions: Dimensions, env: dict[fx.Node, Written]
) -> None:
    outputs, nexts = output_of(emitter.program.step)
    names = [spec.name for spec in emitter.program.outputs] + [after for _, after in draft.states]
    for node, name in zip((*outputs, *nexts), names, strict=True):
        info = dimensions.step(name, node.meta["val"])
        draft.output(_named(emitter, draft.graph, env, node), info)


def _named(emitter: Emitter, graph: GraphWriter, env: dict[fx.Node, Written], node: fx.Node) -> str:
    """The name of a node's value; what is known while the file is written becomes a weight."""
    if emitter.is_known(node):
        weight = emitter.known(node)
        return graph.weight(weight.name, weight.data)
    value = env[node]
    assert isinstance(value, Value)
    return value.name

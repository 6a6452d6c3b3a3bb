"""Builds a `Program` from a trace: the step, what runs before it, and what runs after it.

The three ways a model meets time (a loop, whole sequences, one step a call) differ in how the
step is found. What is left is the same for all: placeholders for inputs and states, a prologue
for what is computed once before the steps, an epilogue for what is computed once after them.
"""

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import SymInt, Tensor, fx, nn

from snncompile.capture.trace import Trace
from snncompile.errors import CaptureError
from snncompile.ir.effects import has_effect
from snncompile.ir.program import Dimension, Input, Output, Program, State, output_of
from snncompile.ir.values import refresh

Reduction = Literal["stack", "last", "running_sum"]


class ProgramBuilder:
    """Collects the step of a program while one of the captures walks the trace."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.model = model
        self.trace = trace
        self.step = fx.Graph()
        self.time: int | None = None
        self.multi_step = False
        self.whole: set[str] = set()
        self.notes: list[str] = []
        self._inputs: dict[tuple[fx.Node, str, int], fx.Node] = {}
        self._states: dict[str, tuple[State, fx.Node]] = {}
        self._initial: dict[str, fx.Node] = {}
        self._next: dict[str, fx.Node] = {}
        self._attributes: dict[str, fx.Node] = {}
        self._sizes: dict[fx.Node, fx.Node] = {}
        self._outputs: list[tuple[fx.Node, Reduction, int]] = []
        self._extras: list[fx.Node] = []

    # The step -----------------------------------------------------------------------------------

    def input(self, source: fx.Node, axis: int | None, *, stepped: bool = False) -> fx.Node:
        """The placeholder of a step input: a sequence along `axis`, or static when that is None.

        `stepped` says that the trace itself saw one step of the sequence.
        """
        kind = "static" if axis is None else "sequence"
        key = (source, kind, axis or 0)
        if key not in self._inputs:
            name = source.name if source.op == "placeholder" else f"{source.name}_{kind}"
            node = self.step.placeholder(name)
            value: Tensor = source.meta["val"]
            node.meta["val"] = value if axis is None or stepped else value.select(axis, 0)
            self._inputs[key] = node
        return self._inputs[key]

    def state(
        self, label: str, value: Tensor, initial: fx.Node | float, *, carried: bool = False
    ) -> fx.Node:
        """The placeholder of a state; `initial` is a number or a node of the trace."""
        if label not in self._states:
            node = self.step.placeholder(label.replace(".", "_").replace("'", "_"))
            node.meta["val"] = value
            fill = initial if not isinstance(initial, fx.Node) else initial.name
            shape = tuple(_dimension(size) for size in value.shape)
            self._states[label] = (State(node.name, label, fill, shape, carried), node)
            if isinstance(initial, fx.Node):
                self._initial[node.name] = initial
        return self._states[label][1]

    def next(self, state: fx.Node, value: fx.Node) -> None:
        """Say which node of the step computes a state's next value."""
        self._next[state.name] = value

    def attribute(self, node: fx.Node) -> fx.Node:
        """A parameter, buffer or constant in the step."""
        target = str(node.target)
        if target not in self._attributes:
            copied = self.step.create_node("get_attr", target)
            copied.meta.update(node.meta)
            self._attributes[target] = copied
        return self._attributes[target]

    def copy(self, node: fx.Node, argument: Callable[[fx.Node], Any]) -> fx.Node:
        """Copy a call of the trace into the step."""
        copied = _copy(self.step, node, argument)
        if node.name in self.trace.whole:
            self.whole.add(copied.name)
        return copied

    def output(self, value: fx.Node, reduction: Reduction, axis: int = 0) -> int:
        """Make a step value an output; returns its position."""
        wanted = (value, reduction, axis)
        if wanted not in self._outputs:
            self._outputs.append(wanted)
        return self._outputs.index(wanted)

    def extra(self, node: fx.Node) -> int:
        """Have the prologue hand a value to the epilogue; returns its position among such."""
        if node not in self._extras:
            self._extras.append(node)
        return self._extras.index(node)

    def size(self, node: fx.Node) -> fx.Node:
        """A symbolic size in the step: that of the matching dimension of a step input."""
        if node in self._sizes:
            return self._sizes[node]
        if node.target is not torch.ops.aten.sym_size.int:
            made = _copy(self.step, node, self.size)
        else:
            made = self._measured(node)
        self._sizes[node] = made
        return made

    def _measured(self, node: fx.Node) -> fx.Node:
        source, axis = node.args
        for (read, kind, time_axis), placeholder in self._inputs.items():
            if read is not source:
                continue
            if kind == "sequence" and axis == time_axis:
                raise CaptureError(
                    "a time step depends on the number of steps; compute that before the loop"
                )
            dimension = axis - (kind == "sequence" and axis > time_axis)  # type: ignore[operator]
            made = self.step.call_function(torch.ops.aten.sym_size.int, (placeholder, dimension))
            made.meta.update(node.meta)
            return made
        raise CaptureError(f"a time step uses the size of %{source}, which it does not read")

    # The whole ------------------------------------------------------------------------------------

    def finish(self, epilogue: "EpilogueWriter", leaves: list[Any]) -> Program:
        """Put the program together.

        Args:
            epilogue: Knows how to compute a node of the trace after the steps.
            leaves: The leaves of the model's result, nodes of the trace or constants.

        Returns:
            The program; not yet verified.
        """
        results = [epilogue.value(leaf) if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
        after = epilogue.graph
        after.output(tuple(results))
        inputs, states, step = self._ordered_step()
        outputs = tuple(
            Output(node.name, reduction, axis)
            for node, (_, reduction, axis) in zip(
                after.find_nodes(op="placeholder"), self._outputs, strict=False
            )
        )
        program = Program(
            root=self.model,
            step=step,
            inputs=inputs,
            states=states,
            outputs=outputs,
            arguments=self.trace.arguments,
            result=self.trace.result,
            prologue=self._prologue(),
            epilogue=after,
            time=self.time,
            multi_step=self.multi_step,
            whole=frozenset(self.whole),
            single_step=self.trace.single_step,
            constants=self.trace.constants,
            notes=self.notes,
        )
        name_reductions(program)
        refresh(program)
        if _passes_through(after, len(program.outputs)):
            program.epilogue = None
        return program

    def _ordered_step(self) -> tuple[tuple[Input, ...], tuple[State, ...], fx.Graph]:
        """Placeholders first, inputs before states; then the calls that are needed."""
        self._drop_dead_states()
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for source in [n for n in self.trace.inputs if not self._prologue_needed()]:
            self._add_unused(source)
        for node in [*self._inputs.values(), *(n for _, n in self._states.values())]:
            env[node] = graph.node_copy(node)
        for node in self.step.nodes:
            if node not in env and node.op != "placeholder":
                env[node] = graph.node_copy(node, lambda n: env[n])
        values = tuple(env[value] for value, _, _ in self._outputs)
        nexts = tuple(env[self._next.get(s.name, n)] for s, n in self._states.values())
        graph.output((values, nexts))
        self.whole = {env[node].name for node in env if node.name in self.whole}
        inputs = tuple(
            Input(env[node].name, "sequence" if kind == "sequence" else "static", axis)
            for (_, kind, axis), node in self._inputs.items()
        )
        states = tuple(replace(s, name=env[n].name) for s, n in self._states.values())
        return inputs, states, graph

    def _drop_dead_states(self) -> None:
        """Forget states that no output and no carried state depends on."""
        live = _ancestors([*(value for value, _, _ in self._outputs), *self._effects()])
        count = -1
        while count != len(live):
            count = len(live)
            for state, node in self._states.values():
                if state.carried or node in live:
                    live |= _ancestors([node, self._next.get(node.name, node)])
        self._states = {label: held for label, held in self._states.items() if held[1] in live}
        for node in reversed(list(self.step.nodes)):
            if node not in live and node.op != "placeholder":
                self.step.erase_node(node)

    def _effects(self) -> list[fx.Node]:
        """Calls that do more than compute a value, such as updating statistics."""
        draft = Program(
            self.model, self.step, (), (), (), self.trace.arguments, self.trace.result,
            single_step=self.trace.single_step,
        )  # fmt: skip
        calls = [node for node in self.step.nodes if node.op.startswith("call")]
        return [node for node in calls if has_effect(draft, node)]

    def _add_unused(self, source: fx.Node) -> None:
        if source not in {read for read, _, _ in self._inputs}:
            self.input(source, None)

    def _prologue_needed(self) -> bool:
        sources = [source for source, _, _ in self._inputs]
        plain = [node for node in self.trace.inputs if node in sources]
        return bool(self._initial or self._extras) or plain != sources

    def _prologue(self) -> fx.Graph | None:
        """What the steps and the epilogue need from before the steps, as one graph."""
        if not self._prologue_needed():
            return None
        wanted = [source for source, _, _ in self._inputs]
        wanted += [self._initial[s.name] for s, _ in self._states.values() if s.name in self._initial]
        wanted += self._extras
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for node in self.trace.inputs:
            env[node] = graph.node_copy(node)
        needed = _ancestors(wanted)
        for node in self.trace.graph.nodes:
            if node in needed and node not in env:
                env[node] = graph.node_copy(node, lambda n: env[n])
        graph.output(tuple(env[node] for node in wanted))
        return graph


class EpilogueWriter:
    """Writes what is computed after the steps, on demand from the result's leaves."""

    def __init__(self, builder: ProgramBuilder) -> None:
        self.builder = builder
        self.graph = fx.Graph()
        self._env: dict[fx.Node, fx.Node] = {}
        self._outputs: dict[int, fx.Node] = {}
        self._extras: dict[int, fx.Node] = {}

    def special(self, node: fx.Node) -> fx.Node | None:
        """A node of the epilogue for a trace node that the steps compute; None for any other."""
        raise NotImplementedError

    def runs_before(self, node: fx.Node) -> bool:
        """Whether a trace node does not depend on the steps."""
        raise NotImplementedError

    def value(self, node: fx.Node) -> fx.Node:
        """The node of the epilogue that computes a node of the trace."""
        if node not in self._env:
            self._env[node] = self._make(node)
        return self._env[node]

    def _make(self, node: fx.Node) -> fx.Node:
        special = self.special(node)
        if special is not None:
            return special
        if node.op == "get_attr":
            made = self.graph.create_node("get_attr", node.target)
            made.meta.update(node.meta)
            return made
        if self.runs_before(node):
            return self._from_prologue(node)
        return _copy(self.graph, node, self.value)

    def output(self, value: fx.Node, reduction: Reduction, axis: int, seen: object) -> fx.Node:
        """The placeholder for an output of the steps."""
        position = self.builder.output(value, reduction, axis)
        if position not in self._outputs:
            with self.graph.inserting_before(self._first_extra()):
                node = self.graph.placeholder(f"out{position}")
            node.meta["val"] = seen
            self._outputs[position] = node
        return self._outputs[position]

    def _first_extra(self) -> fx.Node:
        after_outputs = list(self._outputs.values())
        nodes = list(self.graph.nodes)
        following = nodes.index(after_outputs[-1]) + 1 if after_outputs else 0
        return nodes[following] if following < len(nodes) else self.graph._root  # noqa: SLF001

    def _from_prologue(self, node: fx.Node) -> fx.Node:
        position = self.builder.extra(node)
        if position not in self._extras:
            last = [*self._outputs.values(), *self._extras.values()]
            nodes = list(self.graph.nodes)
            following = nodes.index(last[-1]) + 1 if last else 0
            place = nodes[following] if following < len(nodes) else self.graph._root  # noqa: SLF001
            with self.graph.inserting_before(place):
                made = self.graph.placeholder(f"{node.name}_before")
            made.meta.update(node.meta)
            self._extras[position] = made
        return self._extras[position]


def _copy(graph: fx.Graph, node: fx.Node, argument: Callable[[fx.Node], Any]) -> fx.Node:
    args = fx.node.map_arg(node.args, argument)
    kwargs = fx.node.map_arg(node.kwargs, argument)
    made = graph.create_node(node.op, node.target, args, kwargs)  # type: ignore[arg-type]
    made.meta.update(node.meta)
    return made


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return seen


def _dimension(size: int | SymInt) -> Dimension:
    return size if isinstance(size, int) else "N"


def _passes_through(graph: fx.Graph, outputs: int) -> bool:
    placeholders = list(graph.find_nodes(op="placeholder"))
    return list(output_of(graph)) == placeholders and len(placeholders) == outputs


_REDUCTIONS: dict[Any, Literal["sum", "mean", "max"]] = {
    torch.sum: "sum",
    torch.mean: "mean",
    torch.amax: "max",
    torch.max: "max",
}


def name_reductions(program: Program) -> None:
    """Make each sum, mean or maximum over time of a stacked output an output of its own.

    Args:
        program: The program, changed in place.
    """
    graph = program.epilogue
    if graph is None:
        return
    values, nexts = output_of(program.step)
    kept: list[tuple[fx.Node, Output]] = []
    for node, output, value in zip(
        list(graph.find_nodes(op="placeholder")), program.outputs, values, strict=False
    ):
        found = [_reduction(user) for user in node.users] if output.reduce == "stack" else []
        for reducer, reduced in [pair for pair in found if pair and output.axis == 0]:
            with graph.inserting_before(node):
                made = graph.placeholder(f"{_REDUCTIONS[reducer.target]}_{node.name}")
            made.meta["val"] = reduced.meta["val"]
            reduced.replace_all_uses_with(made)
            for dead in dict.fromkeys((reduced, reducer)):
                graph.erase_node(dead)
            kept.append((value, Output(made.name, _REDUCTIONS[reducer.target])))
        if node.users:
            kept.append((value, output))
        else:
            graph.erase_node(node)
    program.outputs = tuple(output for _, output in kept)
    program.step.output_node().args = ((tuple(value for value, _ in kept), nexts),)


def _reduction(user: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """A call when it reduces the first axis of what it reads, and the node of its values."""
    dim = user.kwargs.get("dim", user.args[1] if len(user.args) > 1 else None)
    dim = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
    if user.target not in _REDUCTIONS or dim != 0 or set(user.kwargs) - {"dim"}:
        return None
    if len(user.args) + len(user.kwargs) > 2:  # noqa: PLR2004
        return None
    if user.target is not torch.max:
        return user, user
    items = list(user.users)
    values = len(items) == 1 and items[0].target is operator.getitem and items[0].args[1] == 0
    return (user, items[0]) if values else None

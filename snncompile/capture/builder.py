"""Builds a `Program` from a trace: the step, what runs before it, and what runs after it.

The three ways a model meets time (a loop, whole sequences, one step a call) differ in how the
step is found. What is left is the same for all: placeholders for inputs and states, a prologue
for what is computed once before the steps, an epilogue for what is computed once after them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch import SymInt, Tensor, fx, nn

from snncompile.capture.graphs import ancestors, copy_call
from snncompile.capture.reductions import name_reductions
from snncompile.capture.states import placeholder_name
from snncompile.capture.trace import Trace
from snncompile.errors import CaptureError
from snncompile.ir.effects import has_effect
from snncompile.ir.program import Dimension, Input, Output, Program, State, output_of
from snncompile.ir.values import refresh

Reduction = Literal["stack", "last", "running_sum"]


class Epilogue(Protocol):
    """What `ProgramBuilder.finish` needs to know about what follows the steps."""

    graph: fx.Graph

    def value(self, node: fx.Node) -> fx.Node:
        """The node of `graph` that computes a node of the trace."""
        ...


class ProgramBuilder:
    """Collects the step of a program while one of the captures walks the trace.

    Attributes:
        model: What was traced.
        trace: The recorded run.
        step: The step so far; its placeholders are put in order by `finish`.
        time, multi_step, caller_loops, notes: As in `Program`.
        whole: Names of step nodes that read a whole sequence.
    """

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.model = model
        self.trace = trace
        self.step = fx.Graph()
        self.time: int | None = None
        self.multi_step = False
        self.caller_loops = False
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
            node = self.step.placeholder(placeholder_name(label))
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

    def copy(self, node: fx.Node, argument: Callable[[fx.Node], fx.Node]) -> fx.Node:
        """Copy a call of the trace into the step."""
        copied = copy_call(self.step, node, argument)
        if node.name in self.trace.whole:
            self.whole.add(copied.name)
            copied.meta["val"] = node.meta["val"].select(0, 0)
        return copied

    def output(self, value: fx.Node, reduction: Reduction, axis: int = 0) -> int:
        """Make a step value an output; returns its position."""
        wanted = (value, reduction, axis)
        if wanted not in self._outputs:
            self._outputs.append(wanted)
        return self._outputs.index(wanted)

    def add_extra(self, node: fx.Node) -> int:
        """Have the prologue hand a value to the epilogue; returns its position among such."""
        if node not in self._extras:
            self._extras.append(node)
        return self._extras.index(node)

    def size(self, node: fx.Node) -> fx.Node:
        """A symbolic size in the step: that of the matching dimension of a step input."""
        if node in self._sizes:
            return self._sizes[node]
        if node.target is not torch.ops.aten.sym_size.int:
            made = copy_call(self.step, node, self.size)
        else:
            made = self._measured(node)
        self._sizes[node] = made
        return made

    def _measured(self, node: fx.Node) -> fx.Node:
        source, axis = node.args
        assert isinstance(axis, int)
        for (read, kind, time_axis), placeholder in self._inputs.items():
            if read is not source:
                continue
            if kind == "sequence" and axis == time_axis:
                raise CaptureError(
                    "a time step depends on the number of steps; compute that before the loop"
                )
            dimension = axis - (kind == "sequence" and axis > time_axis)
            made = self.step.call_function(torch.ops.aten.sym_size.int, (placeholder, dimension))
            made.meta.update(node.meta)
            return made
        raise CaptureError(f"a time step uses the size of %{source}, which it does not read")

    def finish(self, epilogue: "Epilogue", leaves: list[Any]) -> Program:
        """Put the program together.

        Args:
            epilogue: Knows how to compute a node of the trace after the steps.
            leaves: The leaves of the model's result, nodes of the trace or constants.

        Returns:
            The program; not yet verified.
        """
        results = [epilogue.value(leaf) if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
        epilogue.graph.output(tuple(results))
        program = self._program(epilogue.graph)
        name_reductions(program)
        refresh(program)
        if _passes_through(epilogue.graph, len(program.outputs)):
            program.epilogue = None
        return program

    def _program(self, epilogue: fx.Graph) -> Program:
        inputs, states, step = self._ordered_step()
        prologue = self._prologue()
        graphs = [graph for graph in (prologue, step, epilogue) if graph is not None]
        return Program(
            root=self.model,
            step=step,
            inputs=inputs,
            states=states,
            outputs=self._named_outputs(epilogue),
            arguments=self.trace.arguments,
            result=self.trace.result,
            prologue=prologue,
            epilogue=epilogue,
            time=self.time,
            multi_step=self.multi_step,
            caller_loops=self.caller_loops,
            whole=frozenset(self.whole),
            single_step=self.trace.single_step,
            constants=self._used_constants(graphs),
            notes=self.notes,
        )

    def _named_outputs(self, epilogue: fx.Graph) -> tuple[Output, ...]:
        placeholders = epilogue.find_nodes(op="placeholder")
        pairs = zip(placeholders, self._outputs, strict=False)
        return tuple(Output(node.name, reduction, axis) for node, (_, reduction, axis) in pairs)

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
        live = ancestors([*(value for value, _, _ in self._outputs), *self._effects()])
        count = -1
        while count != len(live):
            count = len(live)
            for state, node in self._states.values():
                if state.carried or node in live:
                    live |= ancestors([node, self._next.get(node.name, node)])
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

    def _used_constants(self, graphs: list[fx.Graph]) -> dict[str, Tensor]:
        """The constants that the graphs read; a trace also meets some that it drops."""
        read = {str(node.target) for graph in graphs for node in graph.find_nodes(op="get_attr")}
        return {name: value for name, value in self.trace.constants.items() if name in read}

    def _prologue_needed(self) -> bool:
        sources = [source for source, _, _ in self._inputs]
        plain = [node for node in self.trace.inputs if node in sources]
        return bool(self._initial or self._extras) or plain != sources

    def _prologue(self) -> fx.Graph | None:
        """What the steps and the epilogue need from before the steps, as one graph."""
        if not self._prologue_needed():
            return None
        wanted = [source for source, _, _ in self._inputs]
        wanted += [
            self._initial[s.name] for s, _ in self._states.values() if s.name in self._initial
        ]
        wanted += self._extras
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for node in self.trace.inputs:
            env[node] = graph.node_copy(node)
        needed = ancestors(wanted)
        for node in self.trace.graph.nodes:
            if node in needed and node not in env:
                if node.op == "placeholder":
                    raise CaptureError(_second_loop(node))
                env[node] = graph.node_copy(node, lambda n: env[n])
        graph.output(tuple(env[node] for node in wanted))
        return graph


def _second_loop(state: fx.Node) -> str:
    return (
        f"the model loops over time twice, one loop after the other: it reads the state "
        f"{state.name!r} after the first. Run all layers in one loop over time"
    )


def _dimension(size: int | SymInt) -> Dimension:
    return size if isinstance(size, int) else "N"


def _passes_through(graph: fx.Graph, outputs: int) -> bool:
    placeholders = list(graph.find_nodes(op="placeholder"))
    return list(output_of(graph)) == placeholders and len(placeholders) == outputs

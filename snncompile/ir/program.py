"""A spiking network as a synchronous program: one time step with explicit state, run T times.

`Program` is what capture makes, passes rewrite, schedules run and the exporter writes. Its step
is an fx graph whose placeholders are the inputs of one step and then the states, and whose output
is ``((outputs...), (next states...))``. Modules and parameters stay where the user put them:
targets of call_module and get_attr nodes are resolved on `Program.root`, the user's own model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snncompile.ir.neurons import GRADED, NEURONS, SPIKING

Dimension: TypeAlias = int | str
"""A size of a shape: an int, or "N" for the batch, or an expression in N such as "4*N"."""


Gradient: TypeAlias = Literal["through-time", "each-step", "last-step", "random-step"]
"""Which way a program's gradient goes: back through all steps; within every step, what comes from
the step before being constant; within the last step only; or within one step drawn at random,
which is also the last that runs in training mode."""


@dataclass(frozen=True)
class Input:
    """An input of the step.

    Attributes:
        name: Its placeholder in the step graph.
        kind: "sequence" has a time axis and is read one step at a time; "static" is the same
            tensor at every step.
        axis: Where a sequence has its time axis.
    """

    name: str
    kind: Literal["sequence", "static"]
    axis: int = 0


@dataclass(frozen=True)
class State:
    """A tensor handed from step to step.

    Attributes:
        name: Its placeholder in the step graph.
        label: What it is, e.g. ``layer1.lif.membrane``; unique in the program.
        initial: A number that fills it before the first step, or the name of the prologue's
            output that does.
        shape: Its shape, "N" being the batch.
        carried: It survives the call, as the hidden state of a stateful library module does.
    """

    name: str
    label: str
    initial: float | str
    shape: tuple[Dimension, ...]
    carried: bool = False


@dataclass(frozen=True)
class Output:
    """An output of the step, and what the sequence of its values becomes.

    Attributes:
        name: Its name in the epilogue.
        reduce: "stack" along `axis`; "last" keeps the last step's; "running_sum" adds step by
            step; "sum", "mean" and "max" reduce the stack.
        axis: Where "stack" puts the time axis.
    """

    name: str
    reduce: Literal["stack", "last", "running_sum", "sum", "mean", "max"]
    axis: int = 0


@dataclass(frozen=True)
class Segment:
    """Nodes of a step that run again in the backward pass, from the values that they read.

    Attributes:
        nodes: Their names.
        keeps: The values that other segments make and this one reads, by name, with the bits that
            an element is kept in.
        again: They run again; otherwise what autograd needs is kept.
    """

    nodes: tuple[str, ...]
    keeps: tuple[tuple[str, int], ...]
    again: bool = True


@dataclass(frozen=True)
class Recomputation:
    """How a training step finds values again instead of keeping them.

    Attributes:
        budget: How many bytes it may keep; None for as few as can be.
        segments: What runs again together where there is no budget.
    """

    budget: int | None
    segments: tuple[Segment, ...]


@dataclass
class Program:
    """A captured network.

    Attributes:
        root: Where module and parameter targets of the graphs live: the user's model.
        step: One time step; see the module's docstring.
        inputs: The step's inputs, in the order of its placeholders.
        states: The states, in the order of the placeholders after the inputs.
        outputs: The step's outputs.
        prologue: Runs once before the steps, from the call's tensors to ``(inputs...,
            initial states...)``; None when the call's tensors are the step's inputs.
        epilogue: Runs once after the steps, from the reduced outputs (and then the prologue's
            extra values) to the leaves of the result; None when they are the result.
        arguments: Structure of the call: ``(args, kwargs)`` with tensors numbered.
        result: Structure of what the model returns.
        time: The number of steps when the model fixes it, else None: the sequence's length.
        multi_step: The model itself ran layer by layer over whole sequences.
        one_length: The model treats steps by their number after its loop, so that this program
            holds for inputs of the captured length alone; another length is another capture.
        caller_loops: The model is one time step; its caller ran it once a step.
        whole: Names of call_module nodes that read the whole sequence at once: a BatchNorm whose
            training statistics run over T * N, a parallel neuron.
        single_step: For modules whose own forward takes whole sequences, by target: the torch.nn
            class whose forward is one step of theirs.
        constants: Tensors that the model closed over; get_attr targets that root does not have.
        gradient: Which way the gradient goes, "through-time" unless a pass changes it.
        recompute: What the backward pass runs again; None keeps what autograd keeps.
        notes: What a person should know about the capture, one line each.
    """

    root: nn.Module
    step: fx.Graph
    inputs: tuple[Input, ...]
    states: tuple[State, ...]
    outputs: tuple[Output, ...]
    arguments: "Arguments"
    result: pytree.TreeSpec
    prologue: fx.Graph | None = None
    epilogue: fx.Graph | None = None
    time: int | None = None
    multi_step: bool = False
    one_length: bool = False
    caller_loops: bool = False
    whole: frozenset[str] = frozenset()
    single_step: dict[str, type[nn.Module]] = field(default_factory=dict[str, type[nn.Module]])
    constants: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    gradient: Gradient = "through-time"
    recompute: Recomputation | None = None
    notes: list[str] = field(default_factory=list[str])

    def neurons(self) -> Iterator[fx.Node]:
        """The neuron nodes of the step, in execution order."""
        return (node for node in self.step.nodes if is_neuron(node))

    def module(self, node: fx.Node) -> nn.Module:
        """The module that a call_module node calls."""
        return self.root.get_submodule(str(node.target))

    def placeholders(self) -> list[fx.Node]:
        """The step's placeholders: inputs, then states."""
        return list(self.step.find_nodes(op="placeholder"))

    def placeholder(self, name: str) -> fx.Node:
        """The placeholder of an input or a state."""
        return next(node for node in self.placeholders() if node.name == name)

    def next_states(self) -> dict[str, fx.Node]:
        """For every state, by placeholder name, the node that computes its next value."""
        return dict(zip((s.name for s in self.states), output_of(self.step)[1], strict=True))


@dataclass(frozen=True)
class Arguments:
    """How a call of the model maps to the program's tensors.

    Attributes:
        spec: pytree structure of ``(args, kwargs)``.
        constants: For every leaf, the value the capture saw if it is not a tensor.
        tensors: Positions of the leaves that are tensors.
    """

    spec: pytree.TreeSpec
    constants: tuple[Any, ...]
    tensors: tuple[int, ...]


def is_neuron(node: fx.Node) -> bool:
    """Whether the node calls a neuron of the IR."""
    return node.op == "call_function" and node.target in NEURONS


def is_spiking(node: fx.Node) -> bool:
    """Whether the node calls a neuron whose first output is spikes, of a countable size."""
    if node.op != "call_function" or node.target not in SPIKING:
        return False
    return node.target not in GRADED or node.kwargs.get("levels") is not None


def origin(node: fx.Node) -> str:
    """Where a node came from: the qualified name of the user's module, or the node's own name."""
    return str(node.meta.get("module") or node.name)


def output_of(graph: fx.Graph) -> Any:  # noqa: ANN401
    """What a graph returns: the argument of its output node."""
    return graph.output_node().args[0]


def value_of(node: fx.Node) -> Tensor:
    """The fake tensor that capture recorded for a node: its dtype and its shape, [N, ...]."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"%{node.name} does not hold a tensor but a {type(value).__name__}")
    return value

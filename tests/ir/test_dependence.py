"""Which parts of a step need a loop over time, and in which order they run."""

from typing import Any

import pytest
import torch
from torch import nn

from snncompile.errors import InvalidProgramError
from snncompile.ir import neurons
from snncompile.ir.dependence import Component, components, dependence_graph
from snncompile.ir.program import Program
from tests.programs import Step, convolutional, feedforward, recurrent


def _shown(program: Program) -> list[tuple[str, tuple[str, ...]]]:
    return [(c.kind, tuple(node.name for node in c.nodes)) for c in components(program)]


def test_a_feedforward_network_is_layers_and_scans() -> None:
    assert _shown(feedforward()) == [
        ("batchwise", ("x",)),
        ("batchwise", ("_0",)),
        ("neuron", ("lif0_membrane", "lif", "getitem_1")),
        ("batchwise", ("getitem",)),
        ("batchwise", ("_1",)),
        ("neuron", ("lif1_membrane", "lif_1", "getitem_3")),
        ("batchwise", ("getitem_2",)),
    ]


def test_feedback_keeps_a_loop_around_itself_only() -> None:
    feedback = ("lif_membrane", "lif_spikes", "back", "add", "lif", "getitem", "getitem_1")

    assert _shown(recurrent()) == [
        ("batchwise", ("x",)),
        ("batchwise", ("into",)),
        ("recurrent", feedback),
    ]


def test_every_node_but_the_output_is_in_one_component() -> None:
    program = convolutional()

    nodes = [node for component in components(program) for node in component.nodes]

    assert sorted(node.name for node in nodes) == sorted(n.name for n in dependence_graph(program))
    assert len(nodes) == len(list(program.step.nodes)) - 1


def test_a_batchnorm_in_training_runs_step_by_step_and_else_folds() -> None:
    program = convolutional()

    def kind() -> str:
        return next(c.kind for c in components(program) if c.nodes[0].name == "norm")

    assert kind() == "stepwise"
    program.whole = frozenset(("norm",))
    assert kind() == "whole"
    program.root.eval()
    assert kind() == "batchwise"
    program.whole = frozenset()
    assert kind() == "batchwise"


def test_what_does_not_depend_on_a_sequence_is_invariant() -> None:
    root = nn.ModuleDict(
        {"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "drop": nn.Dropout()}
    )
    root.register_parameter("decay", nn.Parameter(torch.zeros(())))
    step = Step(root)
    image, membrane = (
        step.input("image", 1, 6, 6, kind="static"),
        step.state("lif.membrane", 2, 4, 4),
    )
    decay: Any = step.call(torch.sigmoid, step.graph.create_node("get_attr", "decay"))
    current = step.module("drop", step.module("norm", step.module("conv", image)))
    program = step.program(step.lif(current, membrane, "lif", charge=neurons.Decay(decay)))
    root.eval()

    found = {node.name: c.kind for c in components(program) for node in c.nodes}
    root.train()
    training = {node.name: c.kind for c in components(program) for node in c.nodes}

    invariant = ("image", "decay", "sigmoid", "conv", "norm", "drop")
    assert {found[name] for name in invariant} == {"invariant"}
    assert found["lif"] == training["lif"] == "neuron"
    assert (training["conv"], training["norm"], training["drop"]) == (
        "invariant",
        "stepwise",
        "batchwise",
    )


def test_a_state_that_does_not_feed_itself_is_a_delay() -> None:
    step = Step(nn.Module())
    x, before = step.input("x", 4), step.state("before", 4)
    step.next["before"] = x
    program = step.program(step.call(torch.add, x, before))

    assert _shown(program)[1] == ("delay", ("before",))


def test_a_neuron_whose_decay_depends_on_the_step_is_not_a_scan() -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", 4), step.state("lif.membrane", 4)
    decay: Any = step.call(torch.sigmoid, x)
    program = step.program(step.lif(x, membrane, "lif", charge=neurons.Decay(decay)))

    assert Component(
        "recurrent",
        tuple(n for n in program.step.nodes if n.name in {"lif_membrane", "lif", "getitem_1"}),
    ) in components(program)


def test_a_whole_sequence_module_in_feedback_is_refused() -> None:
    step = Step(nn.ModuleDict({"norm": nn.BatchNorm1d(4)}))
    x, before = step.input("x", 4), step.state("before", 4)
    step.next["before"] = step.module("norm", step.call(torch.add, x, before))
    program = step.program(step.next["before"])
    program.whole = frozenset(("norm",))

    with pytest.raises(InvalidProgramError, match="%norm reads the whole sequence"):
        components(program)

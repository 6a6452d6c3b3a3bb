import pytest
import torch
from torch import nn

from snncompile.ir.program import Program
from snncompile.summary import layers_of
from tests.programs import Step, convolutional, feedforward, recurrent


def written_out() -> Program:
    """A leaky integrator of plain nodes, behind a linear map of the root's own weight."""
    root = nn.Module()
    root.weight = nn.Parameter(torch.ones(3, 4))
    step = Step(root)
    x = step.input("x", 4)
    membrane = step.state("trace", 3)
    current = step.call(nn.functional.linear, x, step.graph.get_attr("weight"))
    step.next["trace"] = step.call(torch.add, membrane, current)
    return step.program(step.next["trace"])


@pytest.mark.parametrize("program", [feedforward(), convolutional()], ids=["linear", "conv"])
def test_the_rows_count_every_parameter_and_state(program: Program) -> None:
    rows = layers_of(program)

    assert sum(row.parameters for row in rows) == sum(p.numel() for p in program.root.parameters())
    assert len([row for row in rows if row.kind == "lif"]) == len(program.states)


def test_rows_are_in_execution_order() -> None:
    rows = layers_of(feedforward((8, 16, 4)))

    assert [(row.name, row.kind, row.shape, row.state_bytes) for row in rows] == [
        ("0", "Linear(8, 16)", "[N, 16]", 0),
        ("lif0", "lif", "[N, 16]", 64),
        ("1", "Linear(16, 4)", "[N, 4]", 0),
        ("lif1", "lif", "[N, 4]", 16),
    ]


def test_spikes_that_come_back_are_state_of_their_neuron() -> None:
    (neuron,) = (row for row in layers_of(recurrent(width=8)) if row.kind == "lif")

    assert neuron.state_bytes == 2 * 8 * 4


def test_a_function_that_reads_a_weight_is_a_row() -> None:
    row, _ = layers_of(written_out())

    assert (row.kind, row.parameters, row.shape) == ("linear", 12, "[N, 3]")


def test_a_state_that_no_row_computes_is_one() -> None:
    _, row = layers_of(written_out())

    assert (row.name, row.kind, row.shape, row.state_bytes) == ("trace", "state", "[N, 3]", 12)

from collections.abc import Callable
from dataclasses import replace
from operator import getitem

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

from snncompile.ir import neurons
from snncompile.ir.names import value_name
from snncompile.ir.program import Program
from snncompile.ir.spelling import function, layer
from snncompile.ir.surrogates import Surrogate
from snncompile.ir.text import node_text, text
from snncompile.rewrite import copy_program
from tests.programs import Step, convolutional, feedforward, recurrent


def node_of(program: Program, name: str) -> fx.Node:
    nodes: list[fx.Node] = list(program.step.nodes)
    return next(node for node in nodes if value_name(node) == name)


def test_a_program_reads_as_one_step_with_its_states() -> None:
    assert text(convolutional()) == snapshot("""\
program steps=sequence
input   %x: sequence [N, 1, 8, 8] float32
state   %lif1_membrane "lif1.membrane": [N, 4, 8, 8] float32 = 0
state   %lif2_membrane "lif2.membrane": [N, 4, 8, 8] float32 = 0
step:
  %conv1 = conv1: Conv2d(1, 4, 3, padding=1, bias=False)(%x)  # [N, 4, 8, 8]
  %norm = norm: BatchNorm2d(4)(%conv1)          # [N, 4, 8, 8]
  %spikes, %membrane = lif(%norm, %lif1_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)  # [N, 4, 8, 8], lif1
  %conv2 = conv2: Conv2d(4, 4, 3, padding=1)(%spikes)  # [N, 4, 8, 8]
  %spikes_1, %membrane_1 = lif(%conv2, %lif2_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)  # [N, 4, 8, 8], lif2
  %add = add(%spikes_1, %spikes)                # [N, 4, 8, 8]
  %pool = pool: AvgPool2d(2, 2)(%add)           # [N, 4, 4, 4]
  %flatten = flatten: Flatten()(%pool)          # [N, 64]
  %head = head: Linear(64, 3)(%flatten)         # [N, 3]
next    %lif1_membrane <- %membrane
next    %lif2_membrane <- %membrane_1
output  out0 = mean(%head)\
""")


def test_feedback_reads_as_a_next_state() -> None:
    assert text(recurrent()).endswith(
        "next    %lif_spikes <- %spikes\noutput  out0 = stack(%spikes)"
    )


def test_the_mark_underlines_a_node() -> None:
    program = feedforward()

    lines = text(program, mark=node_of(program, "%1")).splitlines()

    assert lines[lines.index("  ^^") - 1].startswith("  %1 = 1: Linear(16, 4)")


def test_the_mark_of_an_item_underlines_its_neuron() -> None:
    program = feedforward()
    item = program.step.find_nodes(op="call_function", target=getitem)[3]

    lines = text(program, mark=item).splitlines()

    assert lines[lines.index("  " + "^" * len("%spikes_1, %membrane_1")) - 1].startswith(
        "  %spikes_1"
    )


@pytest.mark.parametrize("name", ["%x", "%lif0_membrane"])
def test_the_mark_underlines_a_placeholder_where_it_is_declared(name: str) -> None:
    program = feedforward()

    lines = text(program, mark=node_of(program, name)).splitlines()

    assert sum(set(line) == {"^"} for line in lines) == 1


@pytest.mark.parametrize("make", [feedforward, recurrent, convolutional])
def test_a_second_capture_and_a_copy_read_the_same(make: Callable[[], Program]) -> None:
    program = make()

    assert text(make()) == text(program) == text(program)
    assert text(copy_program(program)) == text(program)


def test_names_do_not_depend_on_what_fx_calls_the_nodes() -> None:
    program = feedforward()
    before = text(program)

    for node in program.step.nodes:
        if node.op != "placeholder":
            node.name = f"renamed_{node.name}"

    assert text(program) == before


def test_settings_that_have_their_default_are_left_out() -> None:
    step = Step(nn.Module())
    x = step.input("x", 3)
    membrane = step.state("membrane", 3)
    settings = {
        "charge": neurons.Relax(2.0, rest=-1.0),
        "threshold": 0.30000000000000004,
        "reset": neurons.Hard(detach=True),
        "surrogate": Surrogate("sigmoid", (4.0,)),
        "strict": True,
        "detach_membrane": False,
    }
    spikes = step.lif(x, membrane, "lif", **settings)

    line = node_text(spikes)

    assert line == (
        "%spikes, %membrane_1 = lif(%x, %membrane, Relax(2, rest=-1), Hard(detach=True), "
        "sigmoid(4), threshold=0.30000000000000004, strict=True)"
    )


def test_a_learnable_decay_shows_the_value_it_comes_from() -> None:
    root = nn.Module()
    root.w = nn.Parameter(torch.zeros(()))
    step = Step(root)
    x, membrane = step.input("x", 3), step.state("membrane", 3)
    decay = step.call(torch.sigmoid, step.graph.get_attr("w"))
    program = step.program(step.lif(x, membrane, "lif", charge=neurons.Decay(decay)))  # type: ignore[arg-type]

    printed = text(program)

    assert "%w = parameter w " in printed
    assert "%sigmoid = sigmoid(%w)" in printed
    assert "Decay(%sigmoid)" in printed


def test_calls_are_spelled_as_in_python() -> None:
    step = Step(nn.Module())
    x = step.input("x", 4, 6)
    part = step.call(getitem, x, (slice(None), slice(1, None, 2), ...))
    flat = step.graph.call_method("flatten", (part,), {"start_dim": 1})
    halves = step.call(torch.cat, [flat, flat], dim=1)
    step.program(step.call(torch.ops.aten.add.Tensor, halves, 1.0))

    assert [node_text(node) for node in step.graph.nodes][1:-1] == snapshot(
        [
            "%getitem = %x[:, 1::2, ...]",
            "%flatten = %getitem.flatten(start_dim=1)",
            "%cat = cat([%flatten, %flatten], dim=1)",
            "%aten_add_Tensor = aten.add.Tensor(%cat, 1)",
        ]
    )


def test_what_a_person_should_know_is_marked() -> None:
    program = convolutional()
    program.step.find_nodes(op="call_module", target="norm")[0].meta["module"] = "features.norm"
    program.whole = frozenset({"norm"})
    program.time, program.multi_step = 8, True
    program.notes.append("the loop over time was found in forward")

    lines = text(program).splitlines()

    assert lines[:2] == [
        "program steps=8, captured layer by layer",
        "# the loop over time was found in forward",
    ]
    norm = next(line for line in lines if "%norm =" in line)
    assert norm.endswith("# [N, 4, 8, 8], features.norm, whole sequence")


def test_prologue_and_epilogue_are_blocks() -> None:
    program = feedforward((4, 4))
    program.prologue = prologue = fx.Graph()
    batch_first = prologue.placeholder("batch_first")
    swapped = prologue.call_function(torch.transpose, (batch_first, 0, 1))
    start = prologue.call_function(torch.zeros_like, (swapped,))
    prologue.output((swapped, start))
    program.states = (replace(program.states[0], initial=start.name),)
    program.epilogue = epilogue = fx.Graph()
    epilogue.output((epilogue.call_method("mean", (epilogue.placeholder("out0"), 0)),))

    assert text(program) == snapshot("""\
program steps=sequence
input   %x: sequence [N, 4] float32
state   %lif0_membrane "lif0.membrane": [N, 4] float32 = %zeros_like
prologue:
  argument %batch_first
  %transpose = transpose(%batch_first, 0, 1)
  %zeros_like = zeros_like(%transpose)
  return %transpose, %zeros_like
step:
  %0 = 0: Linear(4, 4)(%x)                      # [N, 4]
  %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)  # [N, 4], lif0
next    %lif0_membrane <- %membrane
output  out0 = stack(%spikes)
epilogue:
  argument %out0
  %mean = %out0.mean(0)
  return %mean\
""")


def test_a_broken_program_still_has_a_text() -> None:
    program = feedforward()
    program.step.erase_node(program.step.output_node())
    nowhere = program.step.call_module("nowhere", ())
    program.step.output((nowhere,))

    printed = text(program)

    assert "return  (%nowhere,)" in printed
    assert "%nowhere = nowhere()" in printed


@pytest.mark.parametrize(
    ("module", "spelled"),
    [
        (nn.Linear(2, 3, bias=False), "Linear(2, 3, bias=False)"),
        (nn.Conv2d(1, 4, (3, 5), stride=2), "Conv2d(1, 4, (3, 5), stride=2)"),
        (nn.ConvTranspose1d(1, 4, 3, groups=1), "ConvTranspose1d(1, 4, 3)"),
        (nn.BatchNorm1d(4, eps=1e-3), "BatchNorm1d(4, eps=0.001)"),
        (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d(2, 2, ceil_mode=True)"),
        (nn.AdaptiveAvgPool2d((1, 1)), "AdaptiveAvgPool2d(1)"),
        (nn.Flatten(2), "Flatten(start_dim=2)"),
        (nn.Dropout(0.2), "Dropout(0.2)"),
        (nn.Identity(), "Identity()"),
    ],
)
def test_a_layer_shows_its_shape_and_what_is_not_the_default(
    module: nn.Module, spelled: str
) -> None:
    assert layer(module) == spelled


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value * 2


def test_a_function_has_its_short_name() -> None:
    assert function(torch.add) == "add"
    assert function(torch.nn.functional.relu) == "relu"
    assert function(torch.ops.aten.add.Tensor) == "aten.add.Tensor"
    assert function(Double.apply) == "Double.apply"  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]

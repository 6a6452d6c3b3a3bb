from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx

from snncompile.errors import InvalidProgramError
from snncompile.ir import neurons
from snncompile.ir.program import Program, output_of
from snncompile.ir.verifier import verify_program
from tests.programs import convolutional, feedforward, recurrent


def neuron_of(program: Program) -> fx.Node:
    return next(program.neurons())


def module_of(program: Program) -> fx.Node:
    nodes: list[fx.Node] = program.step.find_nodes(op="call_module")
    return nodes[0]


def returned(program: Program, outputs: object, states: object) -> None:
    program.step.output_node().args = ((outputs, states),)  # type: ignore[assignment]


@pytest.mark.parametrize("make", [feedforward, recurrent, convolutional])
def test_a_well_formed_program_passes(make: Callable[[], Program]) -> None:
    program = make()

    verify_program(program)

    assert list(program.neurons())


def use_before_definition(program: Program) -> None:
    module_of(program).args = (neuron_of(program),)


def drop_the_output(program: Program) -> None:
    program.step.erase_node(program.step.output_node())


def swap_inputs_and_states(program: Program) -> None:
    program.states = program.states[::-1]


def leave_a_placeholder_undeclared(program: Program) -> None:
    program.states = program.states[:1]


def declare_a_state_too_many(program: Program) -> None:
    program.states = (*program.states, replace(program.states[0], name="more"))


def share_a_label(program: Program) -> None:
    program.states = tuple(replace(state, label="membrane") for state in program.states)


def return_one_tensor(program: Program) -> None:
    program.step.output_node().args = (neuron_of(program),)


def forget_a_next_state(program: Program) -> None:
    outputs, states = output_of(program.step)
    returned(program, outputs, states[:1])


def return_a_number(program: Program) -> None:
    returned(program, (1.0,), output_of(program.step)[1])


def call_a_missing_module(program: Program) -> None:
    module_of(program).target = "nowhere"


def read_a_missing_parameter(program: Program) -> None:
    with program.step.inserting_before(neuron_of(program)):
        program.step.get_attr("0.nowhere")


def leave_out_the_membrane(program: Program) -> None:
    neuron_of(program).args = neuron_of(program).args[:1]


def give_a_number_as_membrane(program: Program) -> None:
    neuron_of(program).args = (neuron_of(program).args[0], 0.0)


def leave_out_the_threshold(program: Program) -> None:
    settings = dict(neuron_of(program).kwargs)
    del settings["threshold"]
    neuron_of(program).kwargs = settings


def read_a_neuron_whole(program: Program) -> None:
    with program.step.inserting_after(neuron_of(program)):
        program.step.call_function(torch.stack, (neuron_of(program),))


def read_a_third_item(program: Program) -> None:
    next(iter(neuron_of(program).users)).args = (neuron_of(program), 2)


def start_from_nowhere(program: Program) -> None:
    program.states = (replace(program.states[0], initial="start"), *program.states[1:])


def name_a_whole_node_that_is_gone(program: Program) -> None:
    program.whole = frozenset({"norm"})


def forget_a_value(program: Program) -> None:
    del module_of(program).meta["val"]


def hand_on_another_shape(program: Program) -> None:
    outputs, states = output_of(program.step)
    returned(program, outputs, states[::-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (use_before_definition, "the program has a malformed step: "),
        (drop_the_output, "the program has a step without one output node"),
        (
            swap_inputs_and_states,
            "%lif0_membrane (placeholder) stands where the placeholder of %lif1_membrane belongs",
        ),
        (
            leave_a_placeholder_undeclared,
            "%lif1_membrane (placeholder) is neither an input nor a state",
        ),
        (declare_a_state_too_many, "the program declares %more, which has no placeholder"),
        (
            share_a_label,
            "%lif0_membrane (placeholder) shares its label 'membrane' with another state",
        ),
        (return_one_tensor, "%output (output) is not a pair of outputs and next states"),
        (forget_a_next_state, "%output (output) returns 1 next states, but 2 are declared"),
        (return_a_number, "%output (output) returns outputs that are not values of nodes"),
        (
            call_a_missing_module,
            "%nowhere (module nowhere) calls module 'nowhere', which the model does not have",
        ),
        (
            read_a_missing_parameter,
            "%0_nowhere (attribute 0.nowhere) reads '0.nowhere', which the model does not have",
        ),
        (
            leave_out_the_membrane,
            "%spikes (lif of lif0) has 1 tensor arguments, expected 2: current, membrane",
        ),
        (give_a_number_as_membrane, "%spikes (lif of lif0) takes its membrane from no node"),
        (
            leave_out_the_threshold,
            "%spikes (lif of lif0) has settings that do not fit: missing a required argument: 'threshold'",
        ),
        (
            read_a_neuron_whole,
            "%stack (stack) uses all values of %spikes at once; take one by getitem",
        ),
        (read_a_third_item, "%spikes (lif of lif0) has 2 values, and item 2 is read"),
        (
            start_from_nowhere,
            "%lif0_membrane (placeholder) starts from %start, which no prologue returns",
        ),
        (
            name_a_whole_node_that_is_gone,
            "the program says that %norm reads the whole sequence, but the step calls no such module",
        ),
        (forget_a_value, "%0 (module 0) has no meta['val']; run snncompile.ir.values.refresh"),
        (
            hand_on_another_shape,
            "%membrane_1 (getitem) is [N, 4] float32, but the state %lif0_membrane it becomes is [N, 16] float32",
        ),
    ],
)
def test_a_broken_rule_names_its_node(damage: Callable[[Program], None], message: str) -> None:
    program = feedforward()
    damage(program)

    with pytest.raises(InvalidProgramError) as caught:
        verify_program(program)

    assert str(caught.value).startswith(message)
    assert ("^" in caught.value.__notes__[0]) == (not message.startswith("the program"))


def test_an_attribute_may_be_a_constant_of_the_program() -> None:
    program = feedforward()
    first = module_of(program)
    with program.step.inserting_before(first):
        offset = program.step.get_attr("offset")
        offset.meta["val"] = first.args[0].meta["val"]  # type: ignore[union-attr]
    program.constants["offset"] = torch.zeros(8)

    verify_program(program)

    assert neuron_of(program).target is neurons.lif

"""States that are not a neuron's own membrane: delays, feedback, several states of one neuron."""

# pyright: basic

from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
from torch import fx, nn

from snncompile.ir import neurons
from snncompile.ir.program import Program
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime.schedule import Runner, ScheduleName
from tests.programs import Step, dyadic_, recurrent
from tests.runtime.plain_loop import dyadic_input, plain_loop, zero_states

SCHEDULES: tuple[ScheduleName | int, ...] = ("steps", "layers", 2)
ADAPTIVE = {
    "charge": neurons.Decay(0.5),
    "rate": 0.25,
    "jump": 0.5,
    "threshold": 0.5,
    "reset": neurons.Hard(),
    "surrogate": Surrogate("atan", (2.0,)),
}


def _step(width: int = 4) -> tuple[Step, fx.Node]:
    step = Step(dyadic_(nn.ModuleDict({"into": nn.Linear(width, width)}), 4.0))
    return step, step.input("x", width)


def delay_of_one() -> Program:
    step, x = _step()
    before = step.state("spikes", 4)
    membrane = step.state("lif.membrane", 4)
    fired = step.lif(step.module("into", x), membrane, "lif")
    step.next["spikes"] = fired
    return step.program(before, fired)


def delay_of_two() -> Program:
    step, x = _step()
    first, second = step.state("first", 4, initial=1.0), step.state("second", 4, initial=2.0)
    step.next["first"] = x
    step.next["second"] = first
    return step.program(step.module("into", second))


def state_that_stays() -> Program:
    step, x = _step()
    kept = step.state("kept", 4, initial=0.5)
    step.next["kept"] = kept
    return step.program(step.call(torch.add, x, kept))


def states_that_swap() -> Program:
    step, x = _step()
    one, other = step.state("one", 4, initial=1.0), step.state("other", 4)
    step.next |= {"one": other, "other": one}
    return step.program(step.call(torch.add, x, one))


def membrane_read_by_another_layer() -> Program:
    step, x = _step()
    membrane = step.state("lif.membrane", 4)
    step.lif(step.module("into", x), membrane, "lif")
    after = step.next["lif_membrane"]
    return step.program(step.call(torch.sub, after, membrane))


def two_states_of_one_neuron() -> Program:
    step, x = _step()
    membrane, adaptation = (
        step.state("lif.membrane", 4),
        step.state("lif.adaptation", 4, initial=0.5),
    )
    node = step.call(neurons.adaptive_lif, step.module("into", x), membrane, adaptation, **ADAPTIVE)
    spikes, *following = (step.call(getitem, node, i) for i in range(3))
    step.next |= dict(zip(("lif_membrane", "lif_adaptation"), following, strict=True))
    return step.program(spikes, following[1])


def states_in_the_wrong_places() -> Program:
    step, x = _step()
    membrane, adaptation = (
        step.state("lif.membrane", 4),
        step.state("lif.adaptation", 4, initial=0.5),
    )
    node = step.call(neurons.adaptive_lif, step.module("into", x), membrane, adaptation, **ADAPTIVE)
    spikes, *following = (step.call(getitem, node, i) for i in range(3))
    step.next |= dict(zip(("lif_adaptation", "lif_membrane"), following, strict=True))
    return step.program(spikes)


def membrane_reset_from_outside() -> Program:
    step, x = _step()
    membrane = step.state("lif.membrane", 4)
    fired = step.lif(step.module("into", x), membrane, "lif")
    step.next["lif_membrane"] = step.call(torch.mul, step.next["lif_membrane"], 0.5)
    return step.program(fired)


def decay_that_depends_on_the_input() -> Program:
    step, x = _step()
    membrane = step.state("lif.membrane", 4)
    decay: Any = step.call(torch.ge, x, 0.0)
    fired = step.lif(step.module("into", x), membrane, "lif", charge=neurons.Decay(decay))
    return step.program(fired)


def learnable_decay() -> Program:
    step, x = _step()
    step.root.register_parameter("decay", nn.Parameter(torch.zeros(4)))
    membrane = step.state("lif.membrane", 4)
    decay: Any = step.call(torch.sigmoid, step.graph.create_node("get_attr", "decay"))
    fired = step.lif(step.module("into", x), membrane, "lif", charge=neurons.Decay(decay))
    return step.program(fired)


def neuron_without_memory() -> Program:
    step, x = _step()
    fired = step.call(getitem, step.call(neurons.integrator, x, x, charge=neurons.Decay(0.5)), 0)
    return step.program(fired)


PROGRAMS = (
    delay_of_one,
    delay_of_two,
    state_that_stays,
    states_that_swap,
    membrane_read_by_another_layer,
    two_states_of_one_neuron,
    states_in_the_wrong_places,
    membrane_reset_from_outside,
    decay_that_depends_on_the_input,
    learnable_decay,
    neuron_without_memory,
    recurrent,
)


@pytest.mark.parametrize("make", PROGRAMS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 5])
def test_states_equal_the_plain_loop(
    make: Callable[[], Program], schedule: ScheduleName | int, steps: int
) -> None:
    torch.manual_seed(0)
    program = make()
    inputs, states = (dyadic_input(steps, 3, 4),), zero_states(program, 3)

    outputs, final = Runner(program, schedule).run(inputs, states, steps)

    expected = plain_loop(program, inputs, states, steps)
    torch.testing.assert_close(outputs, expected.outputs, rtol=0, atol=0, check_stride=False)
    torch.testing.assert_close(final, expected.states, rtol=0, atol=0)
    assert steps == 1 or any(output.abs().mean() > 0 for output in outputs)


def test_a_learnable_decay_gets_its_gradient_from_every_step() -> None:
    program = learnable_decay()
    program.root.double()
    inputs, states = (dyadic_input(5, 3, 4).double(),), zero_states(program, 3, torch.float64)
    decay = program.root.get_parameter("decay")

    found = torch.autograd.grad(Runner(program, "layers").run(inputs, states, 5)[0][0].sum(), decay)

    expected = torch.autograd.grad(plain_loop(program, inputs, states, 5).outputs[0].sum(), decay)
    assert expected[0].abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

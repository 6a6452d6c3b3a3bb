"""What is the same at every step is computed once a call."""

# pyright: basic

import pytest
import torch
from torch import nn

from snncompile.ir.program import Program
from snncompile.runtime.schedule import Runner, ScheduleName
from tests.programs import Step, dyadic_
from tests.runtime.plain_loop import dyadic_input, plain_loop, zero_states

SCHEDULES: tuple[ScheduleName | int, ...] = ("steps", "layers", 2)
schedules = pytest.mark.parametrize("schedule", SCHEDULES)


def image_every_step(reduce: str = "stack") -> Program:
    """Direct encoding: the same image drives a convolution and a LIF at every step."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"conv": nn.Conv2d(1, 3, 3), "norm": nn.BatchNorm2d(3)})
    step = Step(dyadic_(root, 4.0))
    image = step.input("image", 1, 6, 6, kind="static")
    membrane = step.state("lif.membrane", 3, 4, 4)
    fired = step.lif(step.module("norm", step.module("conv", image)), membrane, "lif")
    return step.program(fired, reduce=reduce)


def sequence_and_static() -> Program:
    """A sequence meets a static input of its own shape, one of a row, and a parameter."""
    root = nn.Module()
    root.register_parameter("gain", nn.Parameter(torch.tensor([1.0, 2.0, 0.5, 4.0])))
    step = Step(root)
    x, same = step.input("x", 4), step.input("same", 4, kind="static")
    gain = step.graph.create_node("get_attr", "gain")
    mixed = step.call(torch.mul, step.call(torch.add, x, same), gain)
    joined = step.call(torch.cat, (mixed, same), 1)
    return step.program(joined, same)


@schedules
def test_a_static_image_equals_the_plain_loop(schedule: ScheduleName | int) -> None:
    program = image_every_step()
    program.root.eval()
    inputs, states = (dyadic_input(5, 1, 6, 6),), zero_states(program, 5)

    (found,), final = Runner(program, schedule).run(inputs, states, 6)

    expected = plain_loop(program, inputs, states, 6)
    assert 0.02 < found.mean() < 0.9
    torch.testing.assert_close(found, expected.outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(final, expected.states, rtol=0, atol=0)


@schedules
@pytest.mark.parametrize("batch", [1, 3])
def test_statics_broadcast_over_time(schedule: ScheduleName | int, batch: int) -> None:
    program = sequence_and_static()
    inputs = (dyadic_input(5, batch, 4), dyadic_input(batch, 4, seed=1))

    outputs, _ = Runner(program, schedule).run(inputs, (), 5)

    torch.testing.assert_close(
        outputs, plain_loop(program, inputs, (), 5).outputs, rtol=0, atol=0, check_stride=False
    )


@schedules
def test_a_convolution_of_a_static_image_runs_once(schedule: ScheduleName | int) -> None:
    program = image_every_step("mean")
    program.root.eval()
    calls: list[object] = []
    program.root.get_submodule("conv").register_forward_hook(lambda *_: calls.append(1))

    Runner(program, schedule).run((dyadic_input(5, 1, 6, 6),), zero_states(program, 5), 6)

    assert len(calls) == 1


@schedules
def test_a_batchnorm_in_training_sees_a_static_image_at_every_step(
    schedule: ScheduleName | int,
) -> None:
    program = image_every_step()
    norm = program.root.get_submodule("norm")

    Runner(program, schedule).run((dyadic_input(5, 1, 6, 6),), zero_states(program, 5), 6)

    assert norm.get_buffer("num_batches_tracked") == 6


@schedules
def test_dropout_of_a_static_input_draws_at_every_step(schedule: ScheduleName | int) -> None:
    step = Step(nn.ModuleDict({"drop": nn.Dropout(0.5)}))
    program = step.program(step.module("drop", step.input("x", 32, kind="static")))

    (found,), _ = Runner(program, schedule).run((torch.ones(4, 32),), (), 6)

    assert found.shape == (6, 4, 32)
    assert not torch.equal(found[0], found[1])
    assert 0.3 < (found > 0).double().mean() < 0.7

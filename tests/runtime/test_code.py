"""Generated functions look modules and parameters up at every call."""

# pyright: basic

import linecache
import traceback
from collections.abc import Callable
from operator import getitem

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snncompile.ir import neurons
from snncompile.ir.program import Program
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime.code import compile_graph
from snncompile.runtime.schedule import Runner, ScheduleName
from tests.programs import LIF, Step, convolutional, feedforward, recurrent
from tests.runtime.plain_loop import dyadic_input, plain_loop, zero_states


class OverSteps(nn.Linear):
    """A Linear whose own forward takes sequences [T, N, C] only."""

    def forward(self, sequence: Tensor) -> Tensor:
        assert sequence.dim() == 3
        return super().forward(sequence)


class Spike(torch.autograd.Function):
    """A surrogate of the user."""

    @staticmethod
    def forward(ctx: object, distance: Tensor) -> Tensor:
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _called(program: Program) -> Tensor:
    result = compile_graph(program, program.step)(
        program.root, torch.ones(2, 8), *zero_states(program, 2)
    )
    output: Tensor = result[0][0]
    return output


def test_a_graph_is_compiled_once() -> None:
    program = feedforward()

    assert compile_graph(program, program.step) is compile_graph(program, program.step)


def test_a_replaced_parameter_is_seen() -> None:
    program = feedforward()
    assert _called(program).sum() > 0

    program.root.get_submodule("1").weight = nn.Parameter(torch.zeros(4, 16))
    program.root.get_submodule("1").bias = nn.Parameter(torch.zeros(4))

    assert _called(program).sum() == 0


def test_a_parametrization_is_seen() -> None:
    class Zero(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return torch.zeros_like(weight)

    program = feedforward()
    layer = program.root.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    layer.register_parameter("bias", None)
    before = _called(program)

    parametrize.register_parametrization(layer, "weight", Zero())

    assert before.sum() > 0
    assert _called(program).sum() == 0


def test_a_moved_model_is_seen() -> None:
    program = feedforward()
    runner = Runner(program, "layers")
    runner.run((dyadic_input(3, 2, 8),), zero_states(program, 2), 3)

    program.root.double()
    states = zero_states(program, 2, torch.float64)
    (found,), _ = runner.run((dyadic_input(3, 2, 8).double(),), states, 3)

    assert found.dtype == torch.float64


def test_a_traceback_shows_the_generated_line() -> None:
    program = feedforward()

    with pytest.raises(RuntimeError) as caught:
        compile_graph(program, program.step)(program.root, torch.ones(2, 9), None, None)

    lines = [frame.line or "" for frame in traceback.extract_tb(caught.tb)]
    assert any('getattr(self, "0")(x)' in line for line in lines)
    assert linecache.getlines(compile_graph(program, program.step).__code__.co_filename)


def test_constants_are_looked_up_in_the_program() -> None:
    step = Step(nn.Module())
    x = step.input("x", 4)
    step.root.offset = torch.ones(4)
    program = step.program(step.call(torch.add, x, step.graph.create_node("get_attr", "offset")))
    del step.root.offset
    program.constants["offset"] = torch.full((4,), 2.0)
    runner = Runner(program, "layers")
    assert torch.all(runner.run((torch.zeros(3, 2, 4),), (), 3)[0][0] == 2)

    program.constants["offset"] = torch.full((4,), 3.0)

    assert torch.all(runner.run((torch.zeros(3, 2, 4),), (), 3)[0][0] == 3)


@pytest.mark.parametrize("schedule", ["steps", "layers", 2])
def test_a_layer_that_takes_sequences_is_called_through_its_single_step_class(
    schedule: ScheduleName | int,
) -> None:
    torch.manual_seed(0)
    layer = OverSteps(4, 4)
    step = Step(nn.ModuleDict({"layer": nn.Linear(4, 4)}))
    program = step.program(step.module("layer", step.input("x", 4)))
    step.root["layer"] = layer  # type: ignore[operator]
    program.single_step["layer"] = nn.Linear
    x = dyadic_input(5, 3, 4)

    (found,), _ = Runner(program, schedule).run((x,), (), 5)

    expected = torch.stack([nn.functional.linear(now, layer.weight, layer.bias) for now in x])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", ["steps", "layers", 2])
def test_a_surrogate_of_the_user_is_called(schedule: ScheduleName | int) -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", 4), step.state("lif.membrane", 4)
    surrogate = Surrogate("function", (), Spike)
    node = step.call(neurons.lif, x, membrane, **{**LIF, "surrogate": surrogate})
    step.next["lif_membrane"] = step.call(getitem, node, 1)
    program = step.program(step.call(Spike.apply, step.call(getitem, node, 0)))
    inputs, states = (dyadic_input(5, 3, 4).requires_grad_(),), zero_states(program, 3)

    (found,), _ = Runner(program, schedule).run(inputs, states, 5)

    (expected,) = plain_loop(program, inputs, states, 5).outputs
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(value.sum(), inputs)[0] for value in (found, expected)]
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [feedforward, recurrent, convolutional])
@pytest.mark.parametrize("schedule", ["layers", "auto", 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_torch_compile_traces_a_run_in_one_graph(
    make: Callable[[], Program], schedule: ScheduleName | int
) -> None:
    torch._dynamo.reset()
    program = make()
    shape = program.step.find_nodes(op="placeholder")[0].meta["val"].shape[1:]
    inputs, states = (dyadic_input(3, 2, *shape),), zero_states(program, 2)
    program.root.eval()
    runner = Runner(program, schedule)

    compiled = torch.compile(runner.run, fullgraph=True, backend="eager")
    outputs, final = compiled(inputs, states, 3)

    expected = plain_loop(program, inputs, states, 3)
    torch.testing.assert_close(outputs, expected.outputs, rtol=0, atol=0)
    torch.testing.assert_close(final, expected.states, rtol=0, atol=0)

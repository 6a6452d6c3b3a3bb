"""Every schedule computes what the plain loop over time computes."""

# pyright: basic

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snncompile.errors import InputError
from snncompile.ir.program import Program
from snncompile.runtime.schedule import Recording, Runner, ScheduleName
from tests.programs import convolutional, feedforward, recurrent
from tests.runtime.plain_loop import dyadic_input, plain_loop, zero_states

GRADIENT_TOLERANCE = 1e-12
"""Float64 gradients are sums over time, taken in another order."""

SCHEDULES: tuple[ScheduleName | int, ...] = ("steps", "layers", 2, 3)
NETWORKS: dict[Callable[[], Program], tuple[int, ...]] = {
    feedforward: (8,),
    recurrent: (4,),
    convolutional: (1, 8, 8),
}

Network = Callable[[], Program]
networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
schedules = pytest.mark.parametrize("schedule", SCHEDULES)


def _run(
    network: Network, schedule: ScheduleName | int, steps: int = 7, batch: int = 5
) -> tuple[
    Program, tuple[Tensor, ...], tuple[Tensor, ...], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
]:
    program = network()
    program.root.eval()
    inputs = (dyadic_input(steps, batch, *NETWORKS[network]),)
    states = zero_states(program, batch)
    return program, inputs, states, Runner(program, schedule).run(inputs, states, steps)


@networks
@schedules
@pytest.mark.parametrize(("steps", "batch"), [(7, 5), (6, 1), (1, 5)])
def test_outputs_and_states_equal_the_plain_loop(
    network: Network, schedule: ScheduleName | int, steps: int, batch: int
) -> None:
    program, inputs, states, (outputs, final) = _run(network, schedule, steps, batch)

    expected = plain_loop(program, inputs, states, steps)

    torch.testing.assert_close(outputs, expected.outputs, rtol=0, atol=0)
    torch.testing.assert_close(final, expected.states, rtol=0, atol=0)


@networks
def test_neurons_fire_but_not_always(network: Network) -> None:
    program, inputs, states, _ = _run(network, "steps")

    observed = plain_loop(program, inputs, states, 7)

    rates = [torch.stack([step[0] for step in steps]).mean() for steps in observed.emitted.values()]
    assert all(0.02 < rate < 0.9 for rate in rates)


@networks
@schedules
def test_gradients_equal_the_plain_loop(network: Network, schedule: ScheduleName | int) -> None:
    program = network()
    program.root.eval().double()
    inputs = (dyadic_input(7, 5, *NETWORKS[network]).double().requires_grad_(),)
    states = zero_states(program, 5, torch.float64)
    wanted = [*program.root.parameters(), *inputs]

    def gradients(output: Tensor) -> tuple[Tensor, ...]:
        weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        return torch.autograd.grad((output * weight).sum(), wanted)

    expected = gradients(plain_loop(program, inputs, states, 7).outputs[0])
    found = gradients(Runner(program, schedule).run(inputs, states, 7)[0][0])

    assert any(gradient.abs().max() > 0 for gradient in expected)
    torch.testing.assert_close(found, expected, rtol=GRADIENT_TOLERANCE, atol=GRADIENT_TOLERANCE)


@networks
@schedules
def test_a_sequence_in_two_calls_is_one_sequence(
    network: Network, schedule: ScheduleName | int
) -> None:
    program, inputs, states, (_, whole) = _run(network, schedule)
    runner = Runner(program, schedule)

    _, middle = runner.run((inputs[0][:4],), states, 4)
    _, final = runner.run((inputs[0][4:],), middle, 3)

    torch.testing.assert_close(final, whole, rtol=0, atol=0)


@networks
@schedules
def test_a_recording_has_what_every_neuron_received_and_emitted(
    network: Network, schedule: ScheduleName | int
) -> None:
    program, inputs, states, (outputs, _) = _run(network, schedule)
    recording = Recording()

    recorded, _ = Runner(program, schedule).run(inputs, states, 7, recording)

    expected = plain_loop(program, inputs, states, 7)
    assert list(recording.inputs) == list(expected.received)
    for name in expected.received:
        for found, rows in (
            (recording.inputs[name], expected.received[name]),
            (recording.outputs[name], expected.emitted[name]),
        ):
            columns = tuple(torch.stack(column) for column in zip(*rows, strict=True))
            torch.testing.assert_close(found, columns, rtol=0, atol=0)
    torch.testing.assert_close(recorded, outputs, rtol=0, atol=0)


@pytest.mark.parametrize("reduce", ["stack", "last", "running_sum", "sum", "mean", "max"])
@schedules
def test_outputs_are_reduced_over_time(reduce: str, schedule: ScheduleName | int) -> None:
    program = feedforward()
    (output,) = program.outputs
    program.outputs = (type(output)(output.name, reduce),)  # type: ignore[arg-type]
    inputs, states = (dyadic_input(7, 5, 8),), zero_states(program, 5)

    (found,), _ = Runner(program, schedule).run(inputs, states, 7)

    (expected,) = plain_loop(program, inputs, states, 7).outputs
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@schedules
def test_a_stack_may_have_its_time_axis_last(schedule: ScheduleName | int) -> None:
    program = feedforward()
    program.outputs = (type(program.outputs[0])("out", "stack", 2),)

    (found,), _ = Runner(program, schedule).run(
        (dyadic_input(7, 5, 8),), zero_states(program, 5), 7
    )

    assert found.shape == (5, 4, 7)
    assert found.is_contiguous()


def test_auto_takes_all_steps_when_they_are_small_and_fewer_when_not() -> None:
    small, large = Runner(feedforward()), Runner(feedforward((8, 40_000, 4)))

    assert small._tile((torch.empty(7, 5, 8),), 7) == 7
    assert 1 < large._tile((torch.empty(1000, 5, 8),), 1000) < 1000
    assert large._tile((torch.empty(7, 5000, 8),), 7) == 1


def test_auto_takes_tiles_of_nearly_one_length() -> None:
    runner = Runner(feedforward((8, 40_000, 4)))

    for steps in range(60, 90):
        tile = runner._tile((torch.empty(steps, 5, 8),), steps)
        tiles = -(-steps // tile)
        assert tiles * tile - steps < tiles


def test_auto_keeps_each_value_of_a_tile_below_what_torch_takes_new_pages_for() -> None:
    runner = Runner(feedforward((8, 40_000, 4)))
    tile = runner._tile((torch.empty(1000, 5, 8),), 1000)

    assert 2**24 < tile * 5 * 40_000 * 4 < 2**25


def test_the_mode_of_the_modules_may_change_between_calls() -> None:
    program = convolutional()
    runner = Runner(program, "layers")
    inputs, states = (dyadic_input(4, 5, 1, 8, 8),), zero_states(program, 5)

    runner.run(inputs, states, 4)
    program.root.eval()
    (found,), _ = runner.run(inputs, states, 4)

    (expected,) = plain_loop(program, inputs, states, 4).outputs
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_copy_of_a_runner_that_has_run_runs_its_own_model() -> None:
    program, inputs, states, _ = _run(feedforward, "layers")
    runner = Runner(program, "layers")
    before, _ = runner.run(inputs, states, 7)

    copied = copy.deepcopy(runner)
    with torch.no_grad():
        program.root.get_parameter("0.weight").zero_()

    after, _ = copied.run(inputs, states, 7)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(runner.run(inputs, states, 7)[0][0], before[0])


@pytest.mark.parametrize("schedule", ["fast", 0, -1, 2.5, True])
def test_an_unknown_schedule_is_refused(schedule: object) -> None:
    with pytest.raises(InputError, match="use 'steps', 'layers', 'auto' or a number"):
        Runner(feedforward(), schedule)  # type: ignore[arg-type]


def test_no_steps_at_all_are_refused() -> None:
    program = feedforward()

    with pytest.raises(InputError, match="at least 1 time step, not 0"):
        Runner(program).run((torch.empty(0, 5, 8),), zero_states(program, 5), 0)

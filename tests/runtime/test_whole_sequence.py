"""Modules whose meaning depends on time: BatchNorm per step or over T * N, parallel neurons."""

# pyright: basic

import pytest
import torch
from torch import Tensor, nn

from snncompile.errors import InvalidProgramError
from snncompile.ir.program import Program
from snncompile.runtime.schedule import Runner, ScheduleName
from tests.programs import Step, convolutional, dyadic_
from tests.runtime.plain_loop import dyadic_input, plain_loop, zero_states

SCHEDULES: tuple[ScheduleName | int, ...] = ("steps", "layers", 2)
ROUNDING = 1e-6
"""Of float32 statistics, which are sums in an order that torch chooses."""

schedules = pytest.mark.parametrize("schedule", SCHEDULES)


class MeanOverTime(nn.Module):
    """Reads a whole sequence [T, N, ...]: takes its mean over time off."""

    def forward(self, sequence: Tensor) -> Tensor:
        return sequence - sequence.mean(0, keepdim=True)


def two_whole_layers() -> Program:
    """Linear, joint BatchNorm, LIF, a module over time, LIF."""
    torch.manual_seed(0)
    root = nn.ModuleDict(
        {"into": nn.Linear(4, 6), "norm": nn.BatchNorm1d(6), "mean": MeanOverTime()}
    )
    step = Step(dyadic_(root, 4.0))
    x = step.input("x", 4)
    first, second = step.state("lif1.membrane", 6), step.state("lif2.membrane", 6)
    normalized = step.module("norm", step.module("into", x))
    spikes = step.lif(normalized, first, "lif1")
    centred = step.module("mean", spikes)
    fired = step.lif(centred, second, "lif2", threshold=0.25)
    program = step.program(fired, centred)
    program.whole = frozenset((normalized.name, centred.name))
    return program


@schedules
def test_a_batchnorm_of_one_step_takes_statistics_step_by_step(
    schedule: ScheduleName | int,
) -> None:
    program, reference = convolutional(), convolutional()
    inputs, states = (dyadic_input(5, 4, 1, 8, 8),), zero_states(program, 4)

    outputs, final = Runner(program, schedule).run(inputs, states, 5)

    expected = plain_loop(reference, inputs, states, 5)
    torch.testing.assert_close(outputs, expected.outputs, rtol=0, atol=0)
    torch.testing.assert_close(final, expected.states, rtol=0, atol=0)
    for name, buffer in reference.root.named_buffers():
        torch.testing.assert_close(program.root.get_buffer(name), buffer, rtol=0, atol=0)


@schedules
def test_a_joint_batchnorm_takes_statistics_over_all_steps(schedule: ScheduleName | int) -> None:
    program, reference = two_whole_layers(), two_whole_layers().root
    x = dyadic_input(5, 4, 4)

    outputs, _ = Runner(program, schedule).run((x,), zero_states(program, 4), 5)

    normalized = reference["norm"](reference["into"](x).flatten(0, 1)).unflatten(0, (5, 4))  # type: ignore[index]
    spikes = _leaky(normalized, 1.0)
    centred = spikes - spikes.mean(0)
    assert 0.05 < spikes.mean() < 0.9
    torch.testing.assert_close(outputs, (_leaky(centred, 0.25), centred), rtol=0, atol=0)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(
            program.root.get_buffer(name), buffer, rtol=ROUNDING, atol=ROUNDING
        )


@schedules
def test_a_joint_batchnorm_in_eval_mode_is_a_layer_like_any_other(
    schedule: ScheduleName | int,
) -> None:
    program, plain = convolutional(), convolutional()
    program.whole = frozenset(("norm",))
    program.root.eval()
    plain.root.eval()
    inputs, states = (dyadic_input(5, 4, 1, 8, 8),), zero_states(program, 4)

    outputs, _ = Runner(program, schedule).run(inputs, states, 5)

    expected = plain_loop(plain, inputs, states, 5).outputs
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


def test_a_whole_sequence_inside_feedback_is_refused() -> None:
    step = Step(nn.ModuleDict({"mean": MeanOverTime()}))
    x, before = step.input("x", 4), step.state("before", 4)
    after = step.module("mean", step.call(torch.add, x, before))
    step.next["before"] = after
    program = step.program(after)
    program.whole = frozenset(("mean",))

    with pytest.raises(InvalidProgramError, match=r"%mean reads the whole sequence .* feedback"):
        Runner(program, "layers").run((torch.zeros(3, 2, 4),), zero_states(program, 2), 3)


@schedules
def test_a_module_over_time_may_read_the_input_and_be_the_output(
    schedule: ScheduleName | int,
) -> None:
    step = Step(nn.ModuleDict({"mean": MeanOverTime()}))
    program = step.program(step.module("mean", step.input("x", 4)))
    program.whole = frozenset(("mean",))
    x = dyadic_input(4, 3, 4)

    (found,), _ = Runner(program, schedule).run((x,), (), 4)

    torch.testing.assert_close(found, x - x.mean(0), rtol=0, atol=0)


def _leaky(currents: Tensor, threshold: float) -> Tensor:
    membrane, spikes = torch.zeros_like(currents[0]), []
    for current in currents:
        membrane = 0.5 * membrane + current
        spikes.append((membrane >= threshold).float())
        membrane = membrane - spikes[-1] * threshold
    return torch.stack(spikes)


def test_auto_takes_all_steps_where_a_module_reads_them_at_once() -> None:
    runner = Runner(two_whole_layers())

    assert runner._tile((torch.empty(1000, 50_000, 4),), 1000) == 1000

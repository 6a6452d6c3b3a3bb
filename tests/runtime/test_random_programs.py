"""Whatever the program, every schedule computes what the plain loop over time computes."""

# pyright: basic

from random import Random

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snncompile.ir.program import Program, is_spiking
from snncompile.runtime.schedule import Recording, Runner, ScheduleName
from tests.random_programs import KINDS, WIDTH, Layer, Writer, programs
from tests.runtime.plain_loop import dyadic_input, plain_loop, zero_states

GRADIENT_TOLERANCE = 1e-12
"""Float64 gradients are sums over time, taken in another order."""

SCHEDULES: tuple[ScheduleName | int, ...] = ("steps", "layers", 2)
SHAPES = {"x": (4, 2, WIDTH), "same": (2, WIDTH)}

property_test = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@property_test
@given(programs(), st.integers(1, 5), st.sampled_from([1, 3]))
def test_all_schedules_agree(program: Program, steps: int, batch: int) -> None:
    shapes = {"x": (steps, batch, WIDTH), "same": (batch, WIDTH)}
    inputs = tuple(dyadic_input(*shapes[spec.name]) for spec in program.inputs)
    states = zero_states(program, batch)
    expected = plain_loop(program, inputs, states, steps)

    for schedule in SCHEDULES:
        recording = Recording()
        outputs, final = Runner(program, schedule).run(inputs, states, steps, recording)

        torch.testing.assert_close(outputs, expected.outputs, rtol=0, atol=0, check_stride=False)
        torch.testing.assert_close(final, expected.states, rtol=0, atol=0)
        for name, rows in expected.emitted.items():
            columns = tuple(torch.stack(column) for column in zip(*rows, strict=True))
            torch.testing.assert_close(recording.outputs[name], columns, rtol=0, atol=0)


@property_test
@given(programs())
def test_all_gradients_agree(program: Program) -> None:
    program.root.double()
    inputs = tuple(dyadic_input(*SHAPES[spec.name]).double() for spec in program.inputs)
    states = zero_states(program, 2, torch.float64)
    wanted = [value.requires_grad_() for value in (*program.root.parameters(), *inputs)]

    def gradients(outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor | None, ...]:
        loss = sum((output * output).sum() for output in outputs)
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            return ()
        found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        return tuple(found)

    expected = gradients(plain_loop(program, inputs, states, 4).outputs)

    for schedule in SCHEDULES:
        found = gradients(Runner(program, schedule).run(inputs, states, 4)[0])
        torch.testing.assert_close(
            found, expected, rtol=GRADIENT_TOLERANCE, atol=GRADIENT_TOLERANCE
        )


def test_random_programs_fire() -> None:
    random = Random(0)
    rates: list[torch.Tensor] = []
    for seed in range(20):
        layers = [Layer(random.choice(KINDS), *random.choices(range(12), k=3)) for _ in range(6)]
        program = Writer(layers, seed).program("stack", 0)
        inputs = tuple(dyadic_input(*SHAPES[spec.name]) for spec in program.inputs)
        observed = plain_loop(program, inputs, zero_states(program, 2), 4)
        for node in program.neurons():
            if is_spiking(node):
                rates += [torch.stack([row[0] for row in observed.emitted[node.name]]).mean()]

    firing = [rate for rate in rates if 0 < rate < 1]
    assert len(firing) > 0.7 * len(rates) > 10

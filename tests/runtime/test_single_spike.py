"""Single spikes over a sequence: the definition's bits, the published gradients, spike times."""

# pyright: basic

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snncompile.ir.charges import Charge, Charged, Decay, Integrate, Leak, Relax
from snncompile.ir.neurons import lif, single_spike
from snncompile.ir.program import Program
from snncompile.ir.resets import Hard, Subtract
from snncompile.ir.surrogates import Surrogate
from snncompile.passes.single_spike import SingleSpike
from snncompile.runtime.scan import NeuronScan
from snncompile.runtime.schedule import Runner
from snncompile.runtime.single_spike import first_spikes, single_spike_over_time
from snncompile.runtime.spike_times import scan_times, weighed
from tests.passes.plain_loop import double
from tests.programs import Step, convolutional, dyadic_, feedforward
from tests.reference import single_spike as published

ROUNDING = 1e-12
"""Relative, in float64: the sums of a gradient are added in another order."""

CHARGES: list[Charge] = [Decay(0.9), Integrate(), Leak(3.0), Relax(1.7), Charged()]


@pytest.fixture(params=["on", "off"], ids=["kernels", "no kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with kernels, where there is a compiler, and without."""
    monkeypatch.setenv("SNNCOMPILE_KERNELS", request.param)


def settings_of(charge: Charge, **others: Any) -> dict[str, Any]:
    surrogate = Surrogate("fast_sigmoid", (10.0,))
    return {"charge": charge, "threshold": 1.0, "surrogate": surrogate, **others}


def start(like: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(like) for _ in range(3))


def step_by_step(current: Tensor, states: tuple[Tensor, ...], settings: dict[str, Any]) -> Any:
    """The definition, in a loop."""
    spikes = []
    for value in current:
        fired, *following = single_spike(value, *states, **settings)
        states = tuple(following)
        spikes.append(fired)
    return torch.stack(spikes), states


def at_once(current: Tensor, states: tuple[Tensor, ...], settings: dict[str, Any]) -> Any:
    done = single_spike_over_time(current, states, tuple(settings.items()))
    assert done is not None
    return done


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [1, 5, 100, 1000])
@pytest.mark.parametrize("charge", CHARGES, ids=lambda charge: type(charge).__name__)
def test_spikes_and_states_are_those_of_the_definition(
    charge: Charge, steps: int, dtype: torch.dtype
) -> None:
    current = 0.3 * torch.randn(steps, 4, 9, dtype=dtype) + 0.05
    settings = settings_of(charge, strict=True, threshold=0.6)

    spikes, states = at_once(current, start(current[0]), settings)
    wanted, last = step_by_step(current, start(current[0]), settings)

    assert wanted.sum() > 0 or steps < 100
    assert wanted.sum(0).max() <= 1
    torch.testing.assert_close(spikes, wanted, rtol=0, atol=0)
    torch.testing.assert_close(states, last, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reset", [Subtract(), Hard(), Hard(-0.5)], ids=str)
@pytest.mark.parametrize("strict", [False, True])
def test_it_is_the_first_spike_of_a_lif_with_any_reset(
    reset: Any, strict: bool, dtype: torch.dtype
) -> None:
    current = torch.randint(-8, 11, (1000, 4, 50)).to(dtype) / 16
    membrane, fired = torch.zeros_like(current[0]), []
    settings = settings_of(Decay(0.5), strict=strict)
    for value in current:
        spikes, membrane = lif(value, membrane, reset=reset, **settings)
        fired.append(spikes)
    several = torch.stack(fired)

    spikes, _ = at_once(current, start(current[0]), settings)

    assert (several.sum(0) > 1).any()
    torch.testing.assert_close(spikes, several * (several.cumsum(0) == 1), rtol=0, atol=0)


def test_the_comparison_decides_at_the_threshold() -> None:
    current = torch.tensor([[[0.5]], [[0.75]], [[1.0]]])

    at, _ = at_once(current, start(current[0]), settings_of(Decay(0.5)))
    above, _ = at_once(current, start(current[0]), settings_of(Decay(0.5), strict=True))

    assert at.flatten().tolist() == [0, 1, 0]
    assert above.flatten().tolist() == [0, 0, 1]


def test_a_membrane_that_is_not_a_number_hides_no_crossing() -> None:
    current = torch.tensor([0.5, 2.0, float("nan"), 2.0]).view(4, 1, 1)

    spikes, _ = at_once(current, start(current[0]), settings_of(Decay(0.5)))

    assert spikes.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("rule", ["v1", "v2"])
@pytest.mark.parametrize("width", [1, 6], ids=["one decay", "a decay a neuron"])
def test_spikes_and_gradients_are_the_published_ones(rule: str, width: int) -> None:
    torch.manual_seed(0)
    x = (torch.rand(60, 3, 5) < 0.3).double()
    weight = (0.4 * torch.randn(6, 5, dtype=torch.float64)).requires_grad_()
    decay = (0.5 + 0.4 * torch.rand(width, dtype=torch.float64)).requires_grad_()
    against = torch.randn(60, 3, 6, dtype=torch.float64)
    slope = {"v1": 100.0, "v2": 10.0}[rule]
    surrogate = Surrogate("fast_sigmoid", (slope,))
    settings = settings_of(Decay(decay), strict=True, rule=rule, surrogate=surrogate)

    results = []
    for run in (
        lambda current: published.layer(current, decay, rule, slope),
        lambda current: at_once(current, start(current[0]), settings)[0],
        lambda current: step_by_step(current, start(current[0]), settings)[0],
    ):
        spikes = run(x @ weight.T)
        loss = (spikes * against).sum()
        results.append((spikes.detach(), *torch.autograd.grad(loss, (weight, decay))))

    assert 0 < results[0][0].sum() < 18
    assert all(gradient.abs().sum() > 0 for gradient in results[0][1:])
    for found in results[1:]:
        torch.testing.assert_close(found[0], results[0][0], rtol=0, atol=0)
        torch.testing.assert_close(found[1:], results[0][1:], rtol=1e-10, atol=ROUNDING)


@pytest.mark.parametrize("rule", ["v1", "v2"])
def test_gradients_of_every_input_and_setting_are_those_of_the_definition(rule: str) -> None:
    torch.manual_seed(0)
    current = torch.randn(90, 3, 4, dtype=torch.float64).requires_grad_()
    states = tuple(value.requires_grad_() for value in start(current[0].detach()))
    tau = torch.full((4,), 2.5, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    settings = settings_of(Relax(tau), rule=rule, threshold=threshold)

    found = []
    for run in (at_once, step_by_step):
        spikes, last = run(current, states, settings)
        loss = linear((spikes, *last))
        found.append(torch.autograd.grad(loss, (current, *states, tau, threshold)))

    assert all(gradient.abs().sum() > 0 for gradient in found[1])
    torch.testing.assert_close(*found, rtol=1e-10, atol=ROUNDING)


def test_times_alone_take_no_memory_for_spikes() -> None:
    current = torch.rand(50, 2, 3)

    found = first_spikes(
        current, start(current[0]), tuple(settings_of(Decay(0.5)).items()), dense=False
    )

    assert found is not None
    assert set(found.spikes.stride()) == {0}
    assert found.times.shape == (2, 3)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_times_without_a_gradient_are_those_of_the_spikes(dtype: torch.dtype) -> None:
    current = torch.randn(50, 4, 30, dtype=dtype) * 0.6
    neuron = NeuronScan(single_spike, tuple(settings_of(Decay(0.9)).items()))
    expected, _ = step_by_step(current, start(current[0]), settings_of(Decay(0.9)))

    states, found = start(current[0]), []
    with torch.no_grad():
        for tile in torch.split(current, 20):
            before = states
            _, states, times = scan_times(neuron, tile, states, (), False)
            assert times is not None
            _, after = step_by_step(tile, before, settings_of(Decay(0.9)))
            torch.testing.assert_close(states, after, rtol=0, atol=0)
            found.append(torch.zeros(len(tile) + 1, 4, 30, dtype=dtype))
            found[-1] = found[-1].scatter(0, times.unsqueeze(0), 1)[:-1]

    assert 0 < expected.sum() < 120
    assert torch.equal(torch.cat(found), expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_adds_its_columns_at_the_times_of_the_spikes(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5, bias=bias)
    dyadic_(layer, 4.0)
    settings = tuple(settings_of(Decay(0.5)).items())
    current = (torch.randn(20, 3, 7) * 0.6).requires_grad_()
    against = torch.randint(-4, 5, (60, 5)).float()

    found = []
    for dense in (True, False):
        sequences, _, times = scan_times(
            NeuronScan(single_spike, settings), current, start(current[0]), (), dense
        )
        spikes = sequences[0]
        assert spikes is not None
        made = layer(spikes.flatten(0, 1)) if dense else weighed(layer, spikes, times)
        inputs = (current, *layer.parameters())
        found.append((made, *torch.autograd.grad((made * against).sum(), inputs)))

    assert times is not None
    assert 0 < int((times < 20).sum()) < times.numel()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.usefixtures("kernels")
def test_a_linear_behind_neurons_that_stay_silent_gives_its_bias() -> None:
    layer, current = nn.Linear(7, 5), torch.zeros(20, 3, 7, requires_grad=True)
    settings = tuple(settings_of(Decay(0.5)).items())

    sequences, _, times = scan_times(
        NeuronScan(single_spike, settings), current, start(current[0]), (), False
    )
    assert sequences[0] is not None
    made = weighed(layer, sequences[0], times)
    gradient = torch.autograd.grad(made.sum(), layer.weight)[0]

    torch.testing.assert_close(made, layer.bias.expand(60, 5), rtol=0, atol=0)
    assert gradient.count_nonzero() == 0


def zeros(program: Program, batch: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    sizes = [[int(size) for size in state.shape[1:]] for state in program.states]
    return tuple(torch.zeros(batch, *size, dtype=dtype) for size in sizes)


def linear(values: Iterable[Tensor]) -> Tensor:
    """A loss that gives every element another gradient."""
    terms = [(v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view_as(v)).sum() for v in values]
    return torch.stack(terms).sum()


def residual() -> Any:
    """A Linear and an addition read the same single spikes; one Linear is called twice."""
    torch.manual_seed(0)
    step = Step(dyadic_(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8)), 6.0))
    x = step.input("x", 6)
    held = [step.state(f"lif{i}.membrane", 8) for i in range(3)]
    first = step.lif(step.module("0", x), held[0], "lif0")
    second = step.lif(step.module("1", first), held[1], "lif1")
    added = step.call(torch.add, first, second)
    return step.program(step.lif(step.module("1", second), held[2], "lif2"), added)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("make", [lambda: feedforward((8, 16, 12, 4)), convolutional, residual])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_schedule_gives_the_same(make: Any, training: bool) -> None:
    program = double(make())
    program.root.train(training)
    SingleSpike(accept="first-spike-only")(program)
    shape = program.placeholders()[0].meta["val"].shape[1:]
    torch.manual_seed(1)
    x = (torch.randint(-8, 12, (30, 5, *shape)).double() / 4).requires_grad_()
    states = zeros(program, 5, torch.float64)

    found = []
    for schedule in ("steps", "layers", 9):
        outputs, last = Runner(program, schedule).run((x,), states, 30)
        loss = linear(outputs)
        found.append((outputs, last, torch.autograd.grad(loss, (x, *program.root.parameters()))))

    assert found[0][0][0].abs().sum() > 0
    for others in found[1:]:
        torch.testing.assert_close(others[:2], found[0][:2], rtol=0, atol=0)
        torch.testing.assert_close(others[2], found[0][2], rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("kernels")
def test_a_hook_on_a_linear_sees_spikes() -> None:
    program = feedforward()
    SingleSpike(accept="first-spike-only")(program)
    seen: list[Tensor] = []
    program.root.get_submodule("1").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randint(-8, 12, (20, 3, 8)) / 4
    states = zeros(program, 3, torch.float32)

    Runner(program, "layers").run((x,), states, 20)

    assert seen[0].shape == (60, 16)
    assert set(seen[0].flatten().tolist()) == {0, 1}


def test_a_surrogate_of_the_users_runs_step_by_step() -> None:
    class Fires(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, distance: Tensor) -> Tensor:
            return (distance > 0).to(distance.dtype)

    settings = settings_of(Decay(0.5), surrogate=Surrogate("function", (), Fires))
    current = torch.rand(10, 2, 3)

    assert single_spike_over_time(current, start(current[0]), tuple(settings.items())) is None

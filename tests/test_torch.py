"""Transformed networks under what torch does to modules: compile, autocast, func."""

# pyright: basic

import copy
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import snncompile
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.runtime.schedule import ScheduleName
from tests.capture.networks import HandWritten
from tests.distributed.networks import batch as long_batch
from tests.distributed.networks import loss, network
from tests.models import CASES

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"  # dynamo's own, of any Function
)
SCHEDULES: tuple[ScheduleName, ...] = ("layers", "steps")
BY_NAME = {case.name: case for case in CASES}
STEPS = 3
"""Enough for a spike to reach what follows; programs that torch.compile unrolls take longer."""
SUMMED = 1e-12
"""Relative, in float64; gradients that meet are added in an order of the compiler's own."""
INDUCTOR = 1e-5
"""Relative; it fuses sums in an order of its own."""
HALF = 3e-2
"""Relative; a bfloat16 has 8 bits, and gradients are sums of many."""


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """torch.compile takes a size that it sees change, from test to test too, as dynamic."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch() -> tuple[Tensor, Tensor]:
    x, target = long_batch()
    return x[:STEPS], target


def transformed(name: str, passes: list[str], schedule: ScheduleName) -> Transformed:
    x, _ = batch()
    return snncompile.transform(network(name), passes, example_inputs=x, schedule=schedule)


def gradients(called: Any, fast: Transformed, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    fast.reset()
    return torch.autograd.grad(loss(called(x), target), [*fast.parameters()])


def outputs(called: Any, fast: Transformed, x: Tensor) -> Tensor:
    fast.reset()
    found: Tensor = called(x)
    return found.detach()


# torch.compile ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "passes", "schedule"),
    [
        *(("plain", [], schedule) for schedule in SCHEDULES),
        *(("spikingjelly", [], schedule) for schedule in SCHEDULES),
        *(("plain", [changed], "layers") for changed in ("saf", "binarize")),
    ],
    ids=str,
)
def test_compiled_as_one_graph_it_gives_the_same(
    name: str, passes: list[str], schedule: ScheduleName
) -> None:
    x, target = batch()
    fast = transformed(name, passes, schedule)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")

    assert torch.equal(outputs(compiled, fast, x), outputs(fast, fast, x))
    found, expected = (gradients(called, fast, x, target) for called in (compiled, fast))
    torch.testing.assert_close(found, expected, rtol=SUMMED, atol=SUMMED)


@pytest.mark.parametrize("name", ["snntorch-two-layers", "norse-sequential"])
def test_networks_of_other_libraries_compile_as_one_graph(name: str) -> None:
    case = BY_NAME[name]
    fast = snncompile.transform(case.model(), [], example_inputs=case.input(), schedule="layers")
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")

    found, expected = compiled(case.input()), fast(case.input())

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_inductor_gives_the_same() -> None:
    fast = snncompile.transform(HandWritten(), [], schedule="layers")
    x = 2 * torch.rand(5, 3, 6)
    expected, _ = fast(x)
    compiled = torch.compile(fast, fullgraph=True)

    found, _ = compiled(x)

    assert torch.equal(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), [*fast.parameters()])
    got = torch.autograd.grad(found.square().sum(), [*fast.parameters()])
    torch.testing.assert_close(got, wanted, rtol=INDUCTOR, atol=INDUCTOR)


@pytest.mark.parametrize("name", ["plain", "spikingjelly"])
def test_the_batch_may_change_and_is_compiled_for_once_more(name: str) -> None:
    fast = transformed(name, [], "layers")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fast, fullgraph=True, backend=counter)

    for samples in (2, 3, 5, 4):
        x, target = torch.rand(STEPS, samples, 2, 8, 8).double(), torch.rand(samples, 5).double()
        assert torch.equal(outputs(compiled, fast, x), outputs(fast, fast, x))
        found, expected = (gradients(called, fast, x, target) for called in (compiled, fast))
        torch.testing.assert_close(found, expected, rtol=SUMMED, atol=SUMMED)

    assert counter.frame_count <= 4, "each of the two kinds of call, for one size and for any"


def test_the_batch_may_be_dynamic_from_the_start_and_every_length_compiles_once() -> None:
    fast = transformed("plain", [], "layers")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fast, fullgraph=True, backend=counter)

    for steps, samples in ((2, 4), (2, 5), (1, 3)):
        x = torch.rand(steps, samples, 2, 8, 8).double()
        torch._dynamo.mark_dynamic(x, 1)
        assert torch.equal(outputs(compiled, fast, x), outputs(fast, fast, x))

    assert counter.frame_count == 2


def test_a_compiled_network_is_trained() -> None:
    x, target = batch()
    alone, fast = transformed("plain", [], "layers"), transformed("plain", [], "layers")
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")

    for called, own in ((alone, alone), (compiled, fast)):
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss(called(x), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    for found, expected in zip(fast.parameters(), alone.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_every_mode_is_compiled_from_its_own_program() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), LIF(), nn.Linear(8, 2))
    fast = snncompile.transform(model, [], schedule="layers", time_steps=4)
    x = torch.rand(4, 3, 6)
    for mode in (True, False):
        fast.train(mode)(x)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")

    for mode in (True, False, True):
        fast.train(mode)
        torch.manual_seed(0)
        expected = outputs(fast, fast, x)
        torch.manual_seed(0)
        assert torch.equal(outputs(compiled, fast, x), expected)


def test_what_is_not_captured_yet_is_captured_outside() -> None:
    x, _ = batch()
    fast = snncompile.transform(network("plain"), [], schedule="layers")
    refused = torch.compile(fast, fullgraph=True, backend="eager")
    compiled = torch.compile(fast, backend="eager")

    with pytest.raises(Exception, match="give transform example_inputs"):
        refused(x)

    assert torch.equal(compiled(x), fast(x))


# autocast -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["plain", "spikingjelly"])
def test_autocast_runs_layers_in_half_precision_and_membranes_in_single(
    name: str, schedule: ScheduleName
) -> None:
    x, target = (value.float() for value in batch())
    model = network(name).float()
    fast = snncompile.transform(model, [], example_inputs=x, schedule=schedule)
    results, found = [], []

    for called in (fast, _with_wide_currents(copy.deepcopy(model))):
        with torch.autocast("cpu", torch.bfloat16):
            result = called(x)
            total = loss(result.float(), target)
        results.append(result)
        found.append(torch.autograd.grad(total, [*called.parameters()]))

    assert torch.equal(*results)
    assert all(relative(a, b) < HALF for a, b in zip(*found, strict=True))


def _with_wide_currents(model: nn.Module) -> nn.Module:
    """Layers hand float32 on, so that neurons that follow their input's dtype keep it as well."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _given, result: result.float())
    return model


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# torch.func ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradients_of_every_sample_by_torch_func(schedule: ScheduleName) -> None:
    x, target = batch()
    fast = transformed("spikingjelly", [], schedule)
    parameters = {name: value.detach() for name, value in fast.named_parameters()}

    def of_one(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        fast.reset()
        output = cast("Tensor", torch.func.functional_call(fast, parameters, (x[:, None],)))
        return loss(output, target[None])

    each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 1, 0))(parameters, x, target)

    expected = gradients(fast, fast, x, target)
    for found, value in zip(each.values(), expected, strict=True):
        torch.testing.assert_close(found.mean(0), value, rtol=1e-10, atol=1e-12)

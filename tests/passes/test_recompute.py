"""Running segments again: the same bits, far fewer bytes."""

# pyright: basic

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snncompile
import snncompile.nn as own
from snncompile.errors import InputError
from snncompile.ir.text import text
from snncompile.module import Transformed
from snncompile.nn.neurons import ResetName
from snncompile.passes.event_driven import EventDriven
from snncompile.passes.recompute import Recompute
from snncompile.passes.saf import SAF
from snncompile.rewrite import Pass
from snncompile.runtime.schedule import ScheduleName
from tests.memory.saved import saved_bytes
from tests.models import CASES, LARGE
from tests.passes.networks import VGG, Network, Perceptron, PreActResNet18, lively_
from tests.passes.saf_networks import Delayed, Recurrent, Residual, SharedSynapse

Schedule = ScheduleName | int


class Dropping(Network):
    """Dropout between layers of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 32), own.LIF(), nn.Dropout(0.3),
            nn.Linear(32, 32), own.LIF(), nn.Dropout(0.5), nn.Linear(32, 4),
        )  # fmt: skip


def _loud(model: nn.Module, factor: float = 5.0) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(factor)
    return model


def _perceptron(reset: ResetName, *, learn: bool = False) -> nn.Module:
    model = Perceptron()
    lif = (own.LIF(reset=reset, learn_decay=learn) for _ in range(2))
    first, _, second, _, last = model.layers.children()
    model.layers = nn.Sequential(first, next(lif), second, next(lif), last)
    return _loud(model)


def _jelly(*layers: nn.Module) -> nn.Module:
    net = nn.Sequential(*layers)
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.5)
    return net


def _plif(**options: Any) -> Any:
    return neuron.ParametricLIFNode(surrogate_function=surrogate.ATan(), **options)


def jelly_vgg(width: int = 32) -> nn.Module:
    """Multi-step: BatchNorm over all steps, learned decays, hard and soft resets."""
    return _jelly(
        layer.Conv2d(2, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), _plif(),
        layer.MaxPool2d(2),
        layer.Conv2d(6, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), _plif(v_reset=None),
        layer.AvgPool2d(2), layer.Flatten(), layer.Linear(width, 5),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: _perceptron("subtract"), (12,)),
    "mlp, hard reset": (lambda: _perceptron("zero"), (12,)),
    "mlp, learned decay": (lambda: _perceptron("subtract", learn=True), (12,)),
    "vgg": (lambda: lively_(VGG()), (2, 8, 8)),
    "pre-activation resnet": (lambda: lively_(PreActResNet18(4)), (3, 16, 16)),
    "residual": (Residual, (2, 8, 8)),
    "recurrent": (lambda: _loud(Recurrent(), 3.0), (12,)),
    "shared synapse": (lambda: _loud(SharedSynapse(), 3.0), (12,)),
    "delayed": (lambda: _loud(Delayed(), 3.0), (12,)),
    "dropout": (lambda: _loud(Dropping()), (12,)),
    "spikingjelly vgg": (jelly_vgg, (2, 8, 8)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_schedule = pytest.mark.parametrize("schedule", ["layers", "steps", 3])


def network(name: str, steps: int = 7) -> tuple[nn.Module, Tensor]:
    """A network in training mode and its input, [T, N, ...]."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().train()
    return model, torch.randn(steps, 3, *shape)


def trained(module: Transformed, x: Tensor) -> dict[str, Tensor]:
    """One training step: the output, gradients, and what layers and neurons have learned."""
    torch.manual_seed(1)
    module.reset()
    before = {name: value.clone() for name, value in module.named_buffers()}
    module.zero_grad()
    leaf = x.clone().requires_grad_()
    output = module(leaf)
    output = output[0] if isinstance(output, tuple) else output
    ((output.float() - 0.3) ** 2).sum().backward()
    found = {name: _gradient(p) for name, p in module.named_parameters() if p.grad is not None}
    found |= {name: value.clone() for name, value in module.named_buffers()}
    with torch.no_grad():
        for name, value in module.named_buffers():
            value.copy_(before[name])
    return {"output": output.detach(), "input": _gradient(leaf), **found}


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.clone()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected["input"].abs().sum() > 0
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []


def both(
    model: nn.Module, schedule: Schedule, *passes: Pass, again: Pass | str = "recompute"
) -> tuple[Transformed, Transformed]:
    plain = snncompile.transform(model, list(passes), schedule=schedule)
    return plain, snncompile.transform(model, [*passes, again], schedule=schedule)


@every_schedule
@every_network
def test_outputs_gradients_and_statistics_have_the_same_bits(name: str, schedule: Schedule) -> None:
    model, x = network(name)
    plain, again = both(model, schedule)

    assert_same(trained(again, x), trained(plain, x))


BY_LIBRARIES = [
    (c, s) for c in CASES for s in ("layers", "steps") if s == "layers" or c.name not in LARGE
]


@pytest.mark.parametrize(
    ("case", "schedule"), BY_LIBRARIES, ids=lambda value: getattr(value, "name", None)
)
def test_networks_of_the_libraries_have_the_same_bits(case: Any, schedule: Schedule) -> None:
    model, x = case.model(train=True), case.input()
    plain, again = both(model, schedule)

    assert_same(trained(again, x), trained(plain, x))


@every_schedule
@pytest.mark.parametrize("variant", ["each-step", "final"])
def test_gradients_within_a_step_have_the_same_bits(variant: Any, schedule: Schedule) -> None:
    model, x = network("mlp")
    for module in model.modules():
        if isinstance(module, own.LIF):
            module.detach_reset = True
    plain, again = both(model, schedule, SAF(variant=variant))

    assert_same(trained(again, x), trained(plain, x))


@pytest.mark.parametrize("below", [1.0, None])
def test_synapses_by_events_go_the_same_way_again(below: float | None) -> None:
    torch.manual_seed(0)
    model = _loud(nn.Sequential(*(own.LIF() if i % 2 else nn.Linear(256, 256) for i in range(4))))
    x = (torch.rand(16, 64, 256) < 0.05).float()
    lists: list[list[Pass]] = [[EventDriven(below=1.0)], [EventDriven(below=below), Recompute()]]
    plain, again = (
        snncompile.transform(model, passes, time_steps=16, schedule="layers") for passes in lists
    )
    expected = trained(plain, x)

    for _ in range(3):
        found = trained(again, x)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if below is not None:
        assert_same(found, expected)


def test_steps_one_at_a_time_have_the_same_bits() -> None:
    model, x = network("mlp")
    plain, again = both(model, "steps", SAF(update="online"))
    found: list[list[Tensor]] = []
    for module in (plain, again):
        module.reset()
        module.zero_grad()
        for output in module.steps(x):
            (output**2).sum().backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])

    assert found[0]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_have_the_same_bits(dtype: torch.dtype) -> None:
    model, x = network("residual")
    plain, again = both(model.to(dtype), "layers")

    assert_same(trained(again, x.to(dtype)), trained(plain, x.to(dtype)))


def test_autocast_is_that_of_the_first_run() -> None:
    model, x = network("mlp")
    plain, again = both(model, "layers")
    found = []
    for module in (plain, again):
        module.reset()
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = module(x)
        (output.float() ** 2).sum().backward()
        found.append([output.detach(), *map(_gradient, module.parameters())])

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_channels_last_inputs_have_the_same_bits() -> None:
    model, x = network("vgg")
    x = x.flatten(0, 1).to(memory_format=torch.channels_last).view_as(x)
    plain, again = both(model, "layers")

    assert_same(trained(again, x), trained(plain, x))


def test_backward_may_be_called_twice() -> None:
    model, x = network("mlp")
    plain, again = both(model, "layers")
    found: list[list[Tensor]] = []
    for module in (plain, again):
        module.reset()
        loss = (module(x) ** 2).sum()
        parameters = list(module.parameters())
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        found.append([*first, *torch.autograd.grad(loss, parameters)])

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_without_gradients_nothing_is_kept() -> None:
    model, x = network("vgg")
    plain, again = both(model, "layers")
    again(x)

    with torch.no_grad():
        found = saved_bytes(lambda: again(x), model.parameters())
        again.reset()
        expected = plain(x)

    assert found[0] == 0
    assert torch.equal(found[1], expected)


def test_torch_compile_gives_the_same_result() -> None:
    model, x = network("mlp")
    _, again = both(model, "layers")
    again.program_for(x)
    expected = trained(again, x)
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    again.zero_grad()
    again.reset()

    output = compiled(x)
    ((output - 0.3) ** 2).sum().backward()

    torch.testing.assert_close(output, expected["output"], rtol=1e-6, atol=1e-6)
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


def test_verify_finds_nothing_moved() -> None:
    model, x = network("spikingjelly vgg")
    _, again = both(model, "layers")

    report = snncompile.verify(model, again, x)

    assert report.ok, str(report)
    assert report.moved == 0


# What is kept ---------------------------------------------------------------------------------


def jelly_mlp(steps: int = 64, width: int = 128) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        lif = neuron.LIFNode(v_reset=None, decay_input=False, surrogate_function=surrogate.ATan())
        layers += [layer.Linear(width, width), lif]
    return _loud(_jelly(*layers)), torch.rand(steps, 4, width)


def kept_in(module: Transformed, model: nn.Module, x: Tensor) -> int:
    """Bytes that a call keeps of what it computes."""
    module.reset()
    functional.reset_net(model)
    return saved_bytes(lambda: module(x), (*model.parameters(), *model.buffers(), x))[0]


def kept_by_library(model: nn.Module, x: Tensor) -> int:
    """The same for the network as SpikingJelly runs it."""
    functional.reset_net(model)
    return saved_bytes(lambda: model(x), (*model.parameters(), *model.buffers(), x))[0]


def test_a_spiking_layer_keeps_a_bit_a_neuron_and_step() -> None:
    model, x = jelly_mlp()
    again = snncompile.transform(model, "recompute", schedule="layers")
    again(x)
    neuron_steps = 3 * x.numel()

    found, theirs = kept_in(again, model, x), kept_by_library(model, x)

    assert found / neuron_steps <= 0.14
    assert theirs / found >= 45


def test_a_network_of_batch_norms_keeps_a_twentieth() -> None:
    torch.manual_seed(0)
    model, x = jelly_vgg(128), torch.randn(16, 4, 2, 16, 16)
    again = snncompile.transform(model, "recompute", schedule="layers")
    again(x)

    found, theirs = kept_in(again, model, x), kept_by_library(model, x)

    assert theirs / found >= 20


@pytest.mark.parametrize("schedule", ["layers", 4])
def test_a_budget_bounds_what_is_kept_and_is_used(schedule: Schedule) -> None:
    model, x = jelly_mlp(steps=16)
    plain = snncompile.transform(model, [], schedule=schedule)
    plain(x)
    everything, _ = saved_bytes(lambda: plain(x), (*model.parameters(), x))
    kept = []
    for share in (0.3, 0.6, 0.9, 1.5):
        budget = int(share * everything)
        again = snncompile.transform(model, Recompute(budget=budget), schedule=schedule)
        again(x)
        found = kept_in(again, model, x)
        assert found <= budget
        kept.append(found)
        assert_same(trained(again, x), trained(plain, x))

    assert kept == sorted(kept)
    assert kept[-1] > 2 * kept[0]


def test_a_budget_below_the_states_between_tiles_is_refused() -> None:
    model, x = jelly_mlp(steps=16)
    again = snncompile.transform(model, Recompute(budget=100), schedule=4)

    with pytest.raises(InputError, match="the states between 4 tiles of steps take 18 KiB, more"):
        again(x)


@pytest.mark.parametrize("schedule", ["layers", 4, "steps"])
@pytest.mark.parametrize("budget", [None, "100KiB"])
def test_what_is_kept_is_known_beforehand(budget: str | None, schedule: Schedule) -> None:
    model, x = jelly_mlp(steps=16)
    again = snncompile.transform(model, Recompute(budget=budget), schedule=schedule)
    again(x)

    found = kept_in(again, model, x)

    assert sum(part.bytes for part in again.kept(x)) == pytest.approx(found, rel=0.01)


def test_the_report_says_what_each_layer_keeps_and_why() -> None:
    model, x = jelly_mlp(steps=16)
    again = snncompile.transform(model, Recompute(budget="100KiB"), schedule="layers")

    report = snncompile.verify(model, again, x)

    assert report.ok
    assert [str(part) for part in report.memory] == [
        "0, 1: 32 KiB, what autograd keeps: within the budget, spares 2.11 MFLOP",
        "2, 3: 64 KiB, what autograd keeps: within the budget, spares 2.11 MFLOP",
        "4, 5: 1 KiB, runs again (2.11 MFLOP) from %spikes_1 at 1 bit",
    ]
    assert "keeps 4, 5: 1 KiB, runs again" in str(report)


@pytest.mark.parametrize("budget", ["much", "1.2.3MiB", "5 apples", "-3"])
def test_a_budget_that_is_no_size_is_refused(budget: str) -> None:
    with pytest.raises(InputError, match="is no size; give bytes"):
        Recompute(budget=budget)


@pytest.mark.parametrize(
    ("budget", "size"), [(5, 5), ("64MiB", 2**26), ("1.5 kB", 1500), ("2gib", 2**31)]
)
def test_budgets_are_read_as_people_write_them(budget: int | str, size: int) -> None:
    assert Recompute(budget=budget).bytes == size


def test_the_text_says_what_runs_again() -> None:
    model, x = network("residual")
    program = snncompile.transform(model, "recompute", example_inputs=x).program

    lines = [line for line in text(program).splitlines() if line.startswith("again")]

    assert len(lines) > 3
    assert lines[0].endswith("from inputs")
    assert all("(1 bit)" in line for line in lines[1:-1])


def test_a_pass_after_it_keeps_the_segments_true() -> None:
    torch.manual_seed(0)
    model, x = lively_(VGG()).eval(), torch.randn(5, 3, 2, 8, 8)
    folded = snncompile.transform(model, ["recompute", "fuse-batchnorm"], schedule="layers")
    plain = snncompile.transform(model, "fuse-batchnorm", schedule="layers")

    program = folded.program_for(x)

    names = {node.name for node in program.step.nodes}
    assert program.recompute is not None
    assert {name for part in program.recompute.segments for name in part.nodes} <= names
    assert torch.equal(folded(x), plain(x))

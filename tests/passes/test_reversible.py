"""The pass `reversible` on networks: what it replaces, what it refuses, what trains then."""

# pyright: basic

from collections.abc import Callable, Iterator
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import snntorch
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snncompile
from snncompile.errors import InputError, PassRefusedError
from snncompile.export import export_program
from snncompile.ir.charges import Charged, Decay
from snncompile.ir.grids import Grid
from snncompile.ir.neurons import integrator, lif, reversible_lif
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.passes.reversible import ERROR, Reversible
from snncompile.runtime.schedule import Runner, ScheduleName
from tests.capture.networks import fire
from tests.export.runtimes import File
from tests.programs import Step, convolutional, feedforward, recurrent

GRADIENT_TOLERANCE = 1e-10
"""Relative, in float64: schedules add the same terms in another order."""

CURRENT_TOLERANCE = 1e-9
"""Relative, in float64: convolutions of another batch size add in another order."""


MOVED = 1e-3
"""The share of outputs that may differ in onnxruntime: a current within rounding of halfway between
two points of the grid may go to either, about once in 2^15 currents."""


class Layered(nn.Module):
    """Linear layers of SpikingJelly over whole sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lif1 = layer.Linear(6, 12, step_mode="m"), lif_node(tau=2.0)
        self.second, self.lif2 = layer.Linear(12, 4, step_mode="m"), lif_node(v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.lif2(self.second(self.lif1(self.first(x))))
        return spikes.mean(0)


class Residual(nn.Module):
    """Convolutions with BatchNorm, an addition past one of them, a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(1, 4, 3, padding=1, step_mode="m")
        self.norm1, self.lif1 = layer.BatchNorm2d(4, step_mode="m"), lif_node()
        self.conv2 = layer.Conv2d(4, 4, 3, padding=1, step_mode="m")
        self.norm2, self.lif2 = layer.BatchNorm2d(4, step_mode="m"), lif_node()
        self.pool, self.head = layer.AvgPool2d(2, step_mode="m"), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        early = self.lif1(self.norm1(self.conv1(x)))
        late = self.lif2(self.norm2(self.conv2(early))) + early
        scores: Tensor = self.head(self.pool(late).flatten(2).mean(0))
        return scores


class Looped(nn.Module):
    """Plain torch: two layers of neurons written by hand, the loop in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        membranes = [torch.zeros(x.shape[1], 8, dtype=x.dtype) for _ in range(2)]
        out = []
        for value in x:
            for i, synapse in enumerate((self.first, self.second)):
                charged = 0.75 * membranes[i] + synapse(value)
                value = fire(charged - 1.0)  # noqa: PLW2901
                membranes[i] = charged - value
            out.append(value)
        return torch.stack(out)


def lif_node(**options: Any) -> Any:
    return neuron.LIFNode(step_mode="m", **options)


NETWORKS: dict[type[nn.Module], tuple[int, ...]] = {
    Layered: (6,),
    Residual: (1, 6, 6),
    Looped: (6,),
}

networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)


def input_of(network: type[nn.Module], dtype: torch.dtype, batch: int = 3) -> Tensor:
    return torch.randn(6, batch, *NETWORKS[network], dtype=dtype) * 2


def trained_once(
    model: nn.Module, x: Tensor, schedule: ScheduleName | int, item: Reversible | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the gradients of every parameter."""
    transformed = snncompile.transform(model, [item or Reversible()], schedule=schedule)
    output = transformed(x)
    loss = (output**2).sum()
    return output, list(torch.autograd.grad(loss, list(transformed.parameters())))


# Networks ----------------------------------------------------------------------------------------


@networks
@pytest.mark.parametrize(("train", "batch"), [(True, 3), (False, 1)])
def test_every_schedule_gives_the_values_and_gradients_of_the_plain_loop(
    network: type[nn.Module], train: bool, batch: int
) -> None:
    model, x = network().double(), input_of(network, torch.float64, batch)
    if not train:
        model(x)
    for module in model.modules():
        if isinstance(module, neuron.LIFNode):
            module.reset()
    model.train(train)

    output, gradients = trained_once(model, x, "steps")

    assert all(value.abs().sum() > 0 for value in gradients[::2])
    for schedule in ("layers", 2):
        again, found = trained_once(model, x, schedule)
        torch.testing.assert_close(again, output, rtol=CURRENT_TOLERANCE, atol=CURRENT_TOLERANCE)
        scale = max(float(value.abs().max()) for value in gradients)
        for got, wanted in zip(found, gradients, strict=True):
            assert (got - wanted).abs().max() <= GRADIENT_TOLERANCE * scale


@networks
def test_every_lif_of_a_captured_network_is_replaced(network: type[nn.Module]) -> None:
    program = snncompile.capture(network(), input_of(network, torch.float32))

    rewritten = Reversible()(program)

    assert rewritten == 2
    assert {node.target for node in program.neurons()} == {reversible_lif}


def test_a_network_learns_in_float32() -> None:
    torch.manual_seed(0)
    model = snncompile.transform(Residual(), [Reversible()], schedule="layers")
    x, labels = input_of(Residual, torch.float32, 12), torch.arange(12) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []

    for _ in range(20):
        model.reset()
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture
def compiler() -> Iterator[None]:
    """torch.compile takes a size that it sees change, from test to test too, as dynamic."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_torch_compile_trains_the_network() -> None:
    model, x = Layered().double(), input_of(Layered, torch.float64)
    transformed = snncompile.transform(model, [Reversible()], schedule="layers", example_inputs=x)
    compiled = torch.compile(transformed, backend="eager")

    found = []
    for network in (transformed, compiled):
        transformed.reset()
        found.append(torch.autograd.grad((network(x) ** 2).sum(), list(model.parameters())))

    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_feedback_runs_step_by_step() -> None:
    outputs = []
    schedules: tuple[ScheduleName, ...] = ("steps", "layers")
    for schedule in schedules:
        program = recurrent()
        Reversible()(program)
        runner = Runner(program, schedule)
        x = torch.randint(-4, 9, (5, 2, 4), generator=torch.Generator().manual_seed(0)) / 4
        (output,), _ = runner.run((x,), (torch.zeros(2, 8), torch.zeros(2, 8)), 5)
        outputs.append(output)

    assert outputs[0].std() > 0
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("make", [feedforward, convolutional])
def test_the_network_is_exported_and_computes_the_same(
    make: Callable[[], Program], form: Any, tmp_path: Path
) -> None:
    program = make()
    program.root.eval()
    Reversible()(program)

    report = export_program(program, tmp_path / "net.onnx", form=form)

    assert report.agreement.moved <= MOVED * report.agreement.spikes
    assert any(name.startswith("reversible_lif_decay_subtract") for name in report.functions)


def test_the_exported_step_is_the_neuron(tmp_path: Path) -> None:
    program = single()
    Reversible()(program)
    current, membrane = torch.randint(-4, 9, (2, 3, 4)) / 4

    export_program(program, tmp_path / "net.onnx", form="step")
    got = File(tmp_path / "net.onnx")(current, membrane)

    (node,) = program.neurons()
    settings: Any = dict(node.kwargs)
    for made, wanted in zip(got, reversible_lif(current, membrane, **settings), strict=True):
        assert torch.equal(torch.from_numpy(made), wanted)


# Options -----------------------------------------------------------------------------------------


def single(shape: tuple[int, ...] = (4,), initial: float = 0.0, **settings: Any) -> Program:
    """One neuron, driven by the input."""
    step = Step(nn.Module())
    x, membrane = step.input("x", *shape), step.state("v", *shape, initial=initial)
    return step.program(step.lif(x, membrane, "lif", **settings))


def settings_of(item: Reversible, **lif_settings: Any) -> dict[str, Any]:
    program = single(**lif_settings)
    item(program)
    (node,) = program.neurons()
    return dict(node.kwargs)


@pytest.mark.parametrize(
    ("threshold", "limit"), [(1.0, 1.0), (0.75, 1.0), (3.0, 4.0), (0.1, 0.125)]
)
def test_the_branch_saturates_at_the_power_of_two_that_covers_the_threshold(
    threshold: float, limit: float
) -> None:
    assert settings_of(Reversible(), threshold=threshold)["grid"] == Grid(8, limit)


def test_other_coefficients_are_anchored_where_the_error_reaches_its_bound() -> None:
    found = settings_of(Reversible(alpha=0.9, beta=0.9))

    growth = (0.5 / 0.9 + 0.5 / 0.81) / 2
    growth += (growth**2 + 1 / 0.81) ** 0.5
    eps = torch.finfo(torch.float32).eps
    assert found["anchors"] > 1
    assert eps * growth ** found["anchors"] <= ERROR < eps * growth ** (found["anchors"] + 1)
    assert found["alpha"] == found["beta"] == 0.9


def test_anchors_given_are_taken() -> None:
    assert settings_of(Reversible(bits=None, anchors=5))["anchors"] == 5


@pytest.mark.parametrize("item", [Reversible(alpha=0.9, beta=0.9), Reversible(bits=None)])
def test_gradients_with_anchors_stay_within_the_bound_in_float32(item: Reversible) -> None:
    model, x = Layered(), input_of(Layered, torch.float32) / 4
    x = x.repeat(6, 1, 1)

    _, expected = trained_once(model, x, "steps", item)
    _, found = trained_once(model, x, "layers", item)

    for got, wanted in zip(found, expected, strict=True):
        assert (got - wanted).abs().max() <= 10 * ERROR * wanted.abs().max()


def test_skipped_neurons_stay() -> None:
    program = feedforward((4, 5, 6))

    assert Reversible(skip=("lif0",))(program) == 1
    assert [node.target for node in program.neurons()] == [lif, reversible_lif]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, r"alpha and beta lie in \(0, 1\]"),
        ({"beta": 1.5}, r"alpha and beta lie in \(0, 1\]"),
        ({"bits": 30}, "bits lie between 0 and 20"),
        ({"anchors": 0}, "at least 1 step"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reversible(**options)


# Refusals ----------------------------------------------------------------------------------------


def refused(program: Program, message: str, item: Reversible | None = None) -> None:
    before = text(program)
    with pytest.raises(PassRefusedError, match=message):
        (item or Reversible())(program)
    assert text(program) == before


def test_an_odd_number_of_channels_is_refused() -> None:
    message = r"reversible: %spikes_1 \(lif of lif1\) has 5 channels, .*skip=\('lif1',\)"

    refused(feedforward((4, 4, 5)), message)


def test_a_neuron_without_channels_is_refused() -> None:
    refused(single(()), "has no channels")


def test_a_charge_outside_the_neuron_is_refused() -> None:
    refused(single(charge=Charged()), "is charged by other nodes")


def test_a_cut_gradient_through_time_is_refused() -> None:
    refused(single(detach_membrane=True), "cuts the gradient through time")


def test_a_tensor_among_the_settings_is_refused() -> None:
    refused(single(threshold=torch.tensor(0.5)), "has a setting that is a tensor")


def test_a_start_off_the_grid_is_refused_unless_nothing_is_rounded() -> None:
    refused(single(initial=0.3), r"starts from 0.3, which may lie between multiples of 2\^-8")

    assert Reversible(bits=None)(single(initial=0.3)) == 1


def test_a_coarse_dtype_is_refused() -> None:
    x = torch.randn(4, 2, 6).bfloat16()

    refused(snncompile.capture(Looped().bfloat16(), x), "computes in torch.bfloat16")


def test_a_learned_decay_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), neuron.ParametricLIFNode(step_mode="m"))

    refused(snncompile.capture(model, torch.rand(5, 2, 4)), "takes a setting from %")


def test_a_neuron_of_another_kind_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), snntorch.Leaky(beta=0.5, init_hidden=True))

    with pytest.raises(PassRefusedError, match=r"is no lif, .*skip=\('1',\)"):
        snncompile.transform(model, "reversible", example_inputs=torch.rand(2, 4))


def test_spikes_that_are_read_as_true_or_false_are_refused() -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", 4), step.state("v", 4)
    spikes = step.lif(x, membrane, "lif")

    refused(step.program(step.call(torch.logical_not, spikes)), "reads as true or false")


def test_a_membrane_that_takes_a_detour_is_refused() -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", 4), step.state("v", 4)
    spikes = step.lif(x, membrane, "lif")
    step.next["v"] = step.call(torch.mul, step.next["v"], 0.5)

    refused(step.program(spikes), "does not hand its membrane straight")


def test_a_neuron_that_works_twice_a_step_is_refused() -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", 4), step.state("v", 4)
    once = step.lif(x, membrane, "lif")
    between = step.next["v"]
    twice = step.lif(once, between, "lif")
    step.next["v"] = step.next.pop(between.name)

    refused(step.program(twice), "does not hand its membrane straight to its own next step")


def test_neurons_that_do_not_fire_are_left_alone() -> None:
    step = Step(nn.Module())
    x, membrane = step.input("x", 3), step.state("v", 3)
    node = step.call(integrator, x, membrane, charge=Decay(0.5))
    step.next["v"] = step.call(getitem, node, 1)

    assert Reversible()(step.program(step.call(getitem, node, 0))) == 0

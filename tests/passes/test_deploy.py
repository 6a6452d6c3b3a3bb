# pyright: basic
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional as jelly
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snncompile
from snncompile.errors import PassRefusedError
from snncompile.ir.program import Program
from snncompile.ir.quantised import binarized
from snncompile.ir.text import text
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.passes.binarize import Binarize
from snncompile.passes.deploy import Deploy
from snncompile.passes.multi_precision import MultiPrecision
from snncompile.precision.learned import MembraneNorm
from snncompile.rewrite import Pass, copy_program
from snncompile.runtime.schedule import ScheduleName
from tests.passes.networks import VGG, Network, Perceptron, PreActResNet18, lively_
from tests.passes.plain_loop import assert_active, double, run
from tests.programs import Step, convolutional

FOLDED = 1e-12
"""In float64: the same sums and products in another order."""

FLOAT32 = 1e-4
"""The same in float32, without emissions that fall on the other side of a half."""

EVERYTHING = MultiPrecision(steps=3, bits=4, norm=True, attention=True, stateless=0.5)


def learned_(network: nn.Module) -> None:
    """Parameters and statistics of multi-precision neurons as after training, in place."""
    torch.manual_seed(2)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, MembraneNorm):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
                module.normed.fill_(2.0)
                module.weight.sub_(2.0 * (torch.rand_like(module.weight) < 0.5))
        for key, value in network.named_parameters():
            if key.startswith("multi_precision."):
                value.add_(torch.randn_like(value) * 0.25)


def pair(
    model: nn.Module, passes: list[Pass], x: Tensor, schedule: ScheduleName | int = "steps"
) -> tuple[Transformed, Transformed]:
    """The network after some passes, and the same deployed; in float64."""
    lively_(model).double().eval()
    before = snncompile.transform(model, passes, example_inputs=x, schedule=schedule)
    learned_(before)
    after = snncompile.transform(before, "deploy", example_inputs=x, schedule=schedule)
    return before, after


CASES: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], list[Pass]]] = [
    ("float VGG", VGG, (2, 8, 8), []),
    ("binary MLP", Perceptron, (12,), [Binarize()]),
    ("binary VGG", VGG, (2, 8, 8), [Binarize()]),
    ("ternary VGG", VGG, (2, 8, 8), [Binarize(ternary=True)]),
    ("all binary VGG", VGG, (2, 8, 8), [Binarize(layers=("*",))]),
    ("graded MLP", Perceptron, (12,), [MultiPrecision(norm=True), Binarize()]),
    ("graded VGG", VGG, (2, 8, 8), [MultiPrecision(steps=3, norm=True), Binarize()]),
    ("graded float VGG", VGG, (2, 8, 8), [MultiPrecision(steps=2, norm=True)]),
    ("VGG with everything", VGG, (2, 8, 8), [EVERYTHING, Binarize(ternary=True)]),
    ("ResNet-18", lambda: PreActResNet18(width=4), (3, 32, 32), [Binarize()]),
    (
        "graded ResNet-18", lambda: PreActResNet18(width=4), (3, 32, 32),
        [MultiPrecision(steps=2, bits=4, norm=True, stateless=0.5), Binarize()],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape", "passes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_deployed_network_computes_what_it_did(
    make: Callable[[], nn.Module], shape: tuple[int, ...], passes: list[Pass]
) -> None:
    torch.manual_seed(1)
    x = torch.rand(4, 2, *shape, dtype=torch.float64)
    before, after = pair(make(), passes, x)

    expected, found = before(x), after(x)

    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=FOLDED, atol=FOLDED)


@pytest.mark.parametrize("schedule", ["layers", 2])
def test_every_schedule_of_a_deployed_network_computes_the_same(
    schedule: ScheduleName | int,
) -> None:
    torch.manual_seed(1)
    x = torch.rand(4, 2, 2, 8, 8, dtype=torch.float64)
    before, after = pair(VGG(), [EVERYTHING, Binarize()], x, schedule)

    torch.testing.assert_close(after(x), before(x), rtol=FOLDED, atol=FOLDED)


def deployed(
    options: MultiPrecision | None = None, *, ternary: bool = False
) -> tuple[Transformed, Tensor]:
    """A VGG in float32, with inputs that are spikes."""
    torch.manual_seed(1)
    model = lively_(VGG()).eval()
    x = (torch.rand(4, 2, 2, 8, 8) < 0.5).float()
    passes: list[Pass] = [] if options is None else [options]
    passes += [Binarize(ternary=ternary, layers=("*",)), Deploy()]
    return snncompile.transform(model, passes, example_inputs=x), x


@pytest.mark.parametrize("ternary", [False, True], ids=["binary", "ternary"])
def test_products_are_of_signs_and_add_up_whole_numbers_where_spikes_come_in(
    ternary: bool,
) -> None:
    fast, x = deployed(ternary=ternary)
    program = fast.program
    calls = [n for n in program.step.nodes if n.target in (torch.conv2d, nn.functional.linear)]
    weights = [program.root.get_buffer(str(node.args[1].target)) for node in calls]
    first = nn.functional.conv2d(x.flatten(0, 1), weights[0], padding=1)

    assert len(calls) == 5
    assert all(node.kwargs.get("bias") is None for node in calls)
    for weight in weights:
        assert set(weight.flatten().tolist()) == ({-1, 0, 1} if ternary else {-1, 1})
    torch.testing.assert_close(first, first.round(), rtol=0, atol=0)
    assert all(next(iter(node.users)).target.__name__ == "mul" for node in calls)


def test_scales_may_be_negative() -> None:
    fast, _ = deployed()

    scales = [value for key, value in fast.state_dict().items() if key.endswith("scale")]

    assert len(scales) == 5
    assert all((value < 0).any() and (value > 0).any() for value in scales[:4])


def test_only_what_is_read_is_left_and_nothing_trains() -> None:
    fast, _ = deployed(MultiPrecision(steps=2, norm=True))

    keys = list(fast.state_dict())

    assert keys == [
        *(f"layers.{i}.{name}" for i in (0, 3, 7, 10) for name in ("offsets", "scales", "signs")),
        *(f"layers.15.{name}" for name in ("offset", "scale", "signs")),
        *(
            f"multi_precision.layers_{i}_membrane.{name}"
            for i in (2, 5, 9, 12)
            for name in ("decays", "threshold_sigmoid")
        ),
    ]
    assert list(fast.parameters()) == []
    assert not any(isinstance(module, (nn.BatchNorm2d, MembraneNorm)) for module in fast.modules())


def test_a_float_network_is_frozen_too_and_the_model_still_trains() -> None:
    model = lively_(VGG()).eval()
    fast = snncompile.transform(model, "deploy", example_inputs=torch.rand(3, 2, 2, 8, 8))

    assert len(list(fast.parameters())) == 10
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_membrane_norm_is_folded_by_the_papers_formula() -> None:
    norm = MembraneNorm(2, 3).double().eval()
    learned_(nn.ModuleDict({"multi_precision": norm}))
    m = torch.randn(5, 3, dtype=torch.float64)

    scale, offset = norm.affine()

    r, g = torch.sigmoid(norm.kept), torch.sigmoid(norm.normed)
    for t in range(2):
        for c in range(3):
            root = (norm.running_var[t, c] + norm.eps).sqrt()
            a = r + g * norm.weight[t, c] / root
            b = g * (norm.bias[t, c] - norm.weight[t, c] * norm.running_mean[t, c] / root)
            torch.testing.assert_close((scale[t, c], offset[t, c]), (a, b), rtol=FOLDED, atol=0)
        found = scale[t] * m + offset[t]
        torch.testing.assert_close(found, norm(m, torch.tensor([t])), rtol=FOLDED, atol=FOLDED)


class Shared(Network):
    """One convolution before two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norms = nn.ModuleList((nn.BatchNorm2d(2), nn.BatchNorm2d(2)))
        self.lif = LIF()

    def forward(self, x: Tensor) -> Tensor:
        steps = [self.norms[1](self.conv(self.lif(self.norms[0](self.conv(x_t))))) for x_t in x]
        return torch.stack(steps)


@pytest.mark.parametrize("passes", [[], [Binarize(layers=("conv",))]], ids=["float", "binary"])
def test_a_layer_before_two_batchnorms_has_one_weight_and_two_scales(passes: list[Pass]) -> None:
    torch.manual_seed(1)
    x = torch.rand(4, 2, 2, 6, 6, dtype=torch.float64)
    before, after = pair(Shared(), passes, x)

    found = after(x)

    torch.testing.assert_close(found, before(x), rtol=FOLDED, atol=FOLDED)
    keys = [key for key, value in after.state_dict().items() if value.dim() == 4]
    assert keys == ["conv.signs" if passes else "conv.weight"]


def normalised_late() -> Program:
    """BatchNorms that no layer can take: before one, after a sum, behind a map over positions."""
    torch.manual_seed(0)
    root = lively_(
        nn.ModuleDict(
            {
                "first": nn.BatchNorm1d(4), "fc": nn.Linear(5, 5), "last": nn.BatchNorm1d(4),
                "drop": nn.Dropout(0.5),
            }
        )
    ).eval()  # fmt: skip
    for name in ("first", "last"):
        torch.nn.init.uniform_(root.get_buffer(f"{name}.running_mean"))
    step = Step(root)
    x, membrane = step.input("x", 4, 5), step.state("lif", 4, 5)
    normed = step.module("first", x)
    spikes = step.lif(step.call(torch.mul, normed, 4.0), membrane, "lif")
    mapped = step.module("drop", step.module("fc", spikes))
    return double(step.program(step.module("last", mapped)))


@pytest.mark.parametrize("few_bits", [False, True])
def test_a_batchnorm_that_no_layer_can_take_becomes_a_scale_and_an_offset(few_bits: bool) -> None:
    program = normalised_late()
    if few_bits:
        Binarize(layers=("fc",))(program)
    x = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    expected, spikes = run(program, x)
    after = copy_program(program)

    Deploy()(after)
    found, _ = run(after, x)

    assert_active(spikes)
    torch.testing.assert_close(found, expected, rtol=FOLDED, atol=FOLDED)
    called = [str(node.target) for node in after.step.find_nodes(op="call_module")]
    assert called == ([] if few_bits else ["fc"])


def test_layers_that_take_sequences_are_deployed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(1, 4, 3, bias=False), layer.BatchNorm2d(4), neuron.IFNode(),
        layer.Conv2d(4, 4, 3, bias=False), layer.BatchNorm2d(4), neuron.IFNode(),
        layer.Flatten(), layer.Linear(4 * 16, 3),
    )  # fmt: skip
    jelly.set_step_mode(model, "m")
    x = torch.rand(5, 2, 1, 8, 8, dtype=torch.float64)
    before, after = pair(model, [Binarize()], x)

    expected = before(x)
    found = after(x)

    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=FOLDED, atol=FOLDED)


def refused(program: Program) -> str:
    before, root = text(program), program.root

    with pytest.raises(PassRefusedError) as caught:
        Deploy()(program)

    assert (text(program), program.root) == (before, root)
    return str(caught.value)


def test_training_mode_is_refused() -> None:
    assert refused(convolutional()) == (
        "deploy: %norm (module norm) is in training mode. Call model.eval() first."
    )


def test_a_batchnorm_without_statistics_is_refused() -> None:
    step = Step(nn.ModuleDict({"norm": nn.BatchNorm1d(4, track_running_stats=False)}).eval())

    message = refused(step.program(step.module("norm", step.input("x", 4))))

    assert message == (
        "deploy: %norm (module norm) has no running statistics: it always normalises by those of "
        "the batch. Train it with track_running_stats=True."
    )


def test_a_bias_computed_in_the_step_is_refused() -> None:
    step = Step(nn.ModuleDict({"fc": nn.Linear(4, 4)}).eval())
    x = step.input("x", 4)
    weight = step.call(binarized, step.graph.get_attr("fc.weight"), axis=0)
    bias = step.call(torch.mean, x, 0)

    message = refused(step.program(step.call(nn.functional.linear, x, weight, bias)))

    assert message == (
        "deploy: %linear (linear) has a bias that is computed in the step. Add it behind the "
        "synapse."
    )


def test_a_norm_away_from_its_membrane_is_refused() -> None:
    step = Step(nn.ModuleDict({"norm": MembraneNorm(1, 4)}).eval())

    message = refused(step.program(step.module("norm", step.input("x", 4))))

    assert message == (
        "deploy: %norm (module norm) is not between the charge and the threshold of one neuron. "
        "Apply deploy right after multi-precision."
    )


def test_deploying_goes_on_from_what_was_trained() -> None:
    torch.manual_seed(1)
    x = torch.rand(4, 2, 2, 8, 8)
    fast = snncompile.transform(lively_(VGG()).train(), [EVERYTHING, Binarize()], example_inputs=x)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    for _ in range(2):
        torch.autograd.backward(fast(x).square().mean())
        optimizer.step()
    fast.eval()

    slim = snncompile.transform(fast, "deploy", example_inputs=x)
    copied = snncompile.transform(pickle.loads(pickle.dumps(fast)), "deploy", example_inputs=x)

    torch.testing.assert_close(slim(x), fast(x), rtol=FLOAT32, atol=FLOAT32)
    torch.testing.assert_close(copied(x), slim(x), rtol=0, atol=0)


def test_a_pickled_deployed_network_computes_the_same() -> None:
    fast, x = deployed(EVERYTHING)

    other = pickle.loads(pickle.dumps(fast))

    torch.testing.assert_close(other(x), fast(x), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("options", [None, EVERYTHING], ids=["lif", "multi-precision"])
def test_a_deployed_network_is_exported(
    form: Any, options: MultiPrecision | None, tmp_path: Path
) -> None:
    fast, x = deployed(options)

    report = snncompile.export(fast, tmp_path / "net.onnx", form=form, example_inputs=x)

    assert report.agreement.spikes > 0
    assert report.agreement.moved == 0

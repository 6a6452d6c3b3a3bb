# pyright: basic
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional as jelly
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn
from torch.nn import functional

import snncompile
from snncompile.errors import InputError, PassRefusedError
from snncompile.ir.graded import multi_precision, stateless_multi_precision
from snncompile.ir.text import text
from snncompile.module import Transformed
from snncompile.nn import LIF, SECA, reset
from snncompile.passes.binarize import Binarize
from snncompile.passes.multi_precision import MultiPrecision
from snncompile.passes.saf import SAF
from snncompile.precision.learned import MembraneNorm
from snncompile.runtime.schedule import ScheduleName
from tests.passes.networks import VGG, Network, Perceptron, PreActResNet18, lively_
from tests.programs import Step, convolutional, feedforward
from tests.reference import multi_precision as reference

ROUNDING = 1e-12
"""In float64: sums in another order."""

EVERYTHING = MultiPrecision(steps=3, bits=4, norm=True, attention=True, stateless=0.5)
STEPS = 5


def sequence(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(STEPS, 3, *shape, dtype=dtype)


def learned(network: nn.Module) -> dict[str, nn.Parameter]:
    """What the pass added, by name."""
    named = dict(network.named_parameters())
    return {key: value for key, value in named.items() if key.startswith("multi_precision.")}


def scatter_(network: nn.Module) -> None:
    """Give what the pass added values that differ, in place."""
    torch.manual_seed(2)
    with torch.no_grad():
        for value in learned(network).values():
            value.add_(torch.randn_like(value) * 0.5)


def vgg(
    options: MultiPrecision, schedule: ScheduleName | int = "steps", *, train: bool = True
) -> Transformed:
    model = lively_(VGG()).double().train(train)
    fast = snncompile.transform(model, options, example_inputs=sequence(2, 8, 8), schedule=schedule)
    scatter_(fast)
    return fast


class Alone(Network):
    """One neuron layer, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = LIF()


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("schedule", ["steps", "layers", 2])
def test_neurons_compute_what_the_paper_says_with_parameters_of_each_step(
    bits: int | None, schedule: ScheduleName | int
) -> None:
    currents = (sequence(6) * 2 - 0.5).requires_grad_()
    options = MultiPrecision(steps=3, bits=bits)
    fast = snncompile.transform(
        Alone().double(), options, example_inputs=currents, schedule=schedule
    )
    scatter_(fast)
    upstream = torch.randn(STEPS, 3, 6, dtype=torch.float64)

    emitted = fast(currents)
    found = torch.autograd.grad(emitted, [currents, *learned(fast).values()], upstream)

    decay, threshold = (torch.sigmoid(value) for value in learned(fast).values())
    known = (decay.tolist(), threshold.tolist())
    pairs = zip(currents.flatten(1).T.tolist(), upstream.flatten(1).T.tolist(), strict=True)
    done = [(reference.run(c, *known, quantised=bits is not None), u) for c, u in pairs]
    by_hand = [reference.gradients(run, *known, u, online=True) for run, u in done]
    wanted = torch.tensor([run.emitted for run, _ in done], dtype=torch.float64).T
    columns = [torch.tensor(c, dtype=torch.float64) for c in zip(*by_hand, strict=True)]
    slopes = [(value * (1 - value)).detach() for value in (decay, threshold)]
    gradients = (
        columns[0].T.reshape(currents.shape),
        columns[1].sum(0) * slopes[0],
        columns[2].sum(0) * slopes[1],
    )
    assert 0.2 < (emitted > 0).double().mean() < 0.8
    torch.testing.assert_close(
        emitted.detach(), wanted.reshape(emitted.shape), rtol=ROUNDING, atol=ROUNDING
    )
    torch.testing.assert_close(found, gradients, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("schedule", ["layers", 2])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "options",
    [MultiPrecision(online=False, stateless=1 / 3), EVERYTHING],
    ids=["some stateless", "everything"],
)
def test_every_schedule_computes_the_same(
    options: MultiPrecision, train: bool, schedule: ScheduleName | int
) -> None:
    networks = [vgg(options, s, train=train) for s in ("steps", schedule)]
    networks[1].load_state_dict(networks[0].state_dict())
    x = sequence(2, 8, 8)

    outputs = [network(x) for network in networks]
    gradients = [
        torch.autograd.grad(out.square().sum(), list(net.parameters()))
        for net, out in zip(networks, outputs, strict=True)
    ]

    torch.testing.assert_close(*outputs, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(*gradients, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(*(n.state_dict() for n in networks), rtol=ROUNDING, atol=ROUNDING)
    assert all(value.abs().sum() > 0 for value in gradients[0][-4:])


def test_training_trains_the_model_and_what_the_neurons_learn() -> None:
    fast = vgg(EVERYTHING)
    before = copy.deepcopy(fast.state_dict())
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)

    fast(sequence(2, 8, 8)).square().sum().backward()
    optimizer.step()

    after = fast.state_dict()
    still = [key for key, value in after.items() if torch.equal(value, before[key])]
    assert still == []
    assert torch.equal(fast.original.state_dict()["layers.0.weight"], after["layers.0.weight"])


def test_a_models_checkpoint_fits_and_the_rest_starts_where_it_was_told() -> None:
    model = Perceptron()
    options = MultiPrecision(steps=2, decay=0.25, threshold=0.75)
    fast = snncompile.transform(model, options, example_inputs=torch.rand(4, 3, 12))

    result = fast.load_state_dict(Perceptron().state_dict(), strict=False)

    assert result.unexpected_keys == []
    assert result.missing_keys == list(learned(fast))
    assert result.missing_keys == [
        "multi_precision.layers_1_membrane.decay",
        "multi_precision.layers_1_membrane.threshold",
        "multi_precision.layers_3_membrane.decay",
        "multi_precision.layers_3_membrane.threshold",
    ]
    started = [torch.sigmoid(value).tolist() for value in learned(fast).values()]
    assert started == [pytest.approx([v, v]) for v in (0.25, 0.75, 0.25, 0.75)]
    assert list(model.state_dict()) == list(Perceptron().state_dict())


def test_evaluation_sees_what_was_trained_and_training_goes_on() -> None:
    fast = vgg(EVERYTHING)
    x = sequence(2, 8, 8)
    fast(x)
    trained = copy.deepcopy(fast.state_dict())
    parameters = list(map(id, fast.parameters()))

    evaluated = fast.eval()(x)
    fast(x[:, :1])

    assert not any(module.training for module in fast.modules())
    torch.testing.assert_close(dict(fast.state_dict()), dict(trained), rtol=0, atol=0)
    assert list(map(id, fast.parameters())) == parameters
    fast.train()(x)
    norm = fast.get_submodule("multi_precision.layers_2_membrane.norm")
    assert norm.training
    assert not torch.equal(
        norm.get_buffer("running_mean"),
        trained["multi_precision.layers_2_membrane.norm.running_mean"],
    )
    assert not torch.equal(fast(x), evaluated)


def test_a_copy_and_a_pickle_keep_what_was_learned() -> None:
    fast = vgg(EVERYTHING, train=False)
    x = sequence(2, 8, 8)

    copies = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]

    for other in copies:
        torch.testing.assert_close(other(x), fast(x), rtol=0, atol=0)


def test_every_step_has_its_own_batchnorm_of_the_membrane() -> None:
    torch.manual_seed(0)
    norm = MembraneNorm(3, 4).double()
    with torch.no_grad():
        for value in norm.parameters():
            value.add_(torch.randn_like(value))
    plain = [nn.BatchNorm2d(4).double() for _ in range(3)]
    for t, other in enumerate(plain):
        other.load_state_dict(
            {
                key: norm.state_dict()[key][t]
                for key in ("weight", "bias", "running_mean", "running_var")
            },
            strict=False,
        )
    membranes = torch.randn(3, 5, 4, 2, 2, dtype=torch.float64)
    kept, share = torch.sigmoid(norm.kept), torch.sigmoid(norm.normed)

    for module in (norm, *plain):
        module.train()
    trained = [norm(m, torch.tensor([t])) for t, m in enumerate(membranes)]
    expected = [kept * m + share * plain[t](m) for t, m in enumerate(membranes)]
    for module in (norm, *plain):
        module.eval()
    evaluated = [norm(m, torch.tensor([t])) for t, m in enumerate(membranes)]
    expected += [kept * m + share * plain[t](m) for t, m in enumerate(membranes)]

    torch.testing.assert_close(trained + evaluated, expected, rtol=ROUNDING, atol=ROUNDING)


def test_a_membrane_is_normalised_before_it_fires_and_goes_on_from_there() -> None:
    options = MultiPrecision(steps=3, norm=True)
    currents = sequence(6)
    fast = snncompile.transform(Alone().double().eval(), options, example_inputs=currents)
    scatter_(fast)
    norm = fast.get_submodule(f"{_only(fast)}.norm")
    decay, threshold = (
        torch.sigmoid(fast.get_parameter(f"{_only(fast)}.{k}")) for k in ("decay", "threshold")
    )

    found = fast(currents)

    membrane, expected = torch.zeros(3, 6, dtype=torch.float64), []
    for t, current in enumerate(currents):
        row = min(t, 2)
        charged = norm(decay[row] * membrane + current, torch.tensor([row]))
        expected.append(torch.relu(charged - threshold[row]))
        membrane = torch.minimum(charged, threshold[row])
    torch.testing.assert_close(found, torch.stack(expected), rtol=ROUNDING, atol=ROUNDING)


def _only(fast: nn.Module) -> str:
    """The one neuron layer's name in what the pass added."""
    (name,) = {key.split(".")[1] for key in learned(fast)}
    return f"multi_precision.{name}"


@pytest.mark.parametrize("positions", [(4,), (4, 3), (2, 3, 4)])
def test_attention_gates_channels_by_their_neighbours(positions: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gate = SECA(3).double()
    x = torch.randn(2, 5, *positions, dtype=torch.float64)

    found = gate(x)

    weights = gate.conv.weight.flatten().tolist()
    for n in range(2):
        means = [0.0, *(float(channel.mean()) for channel in x[n]), 0.0]
        for c in range(5):
            drive = sum(w * m for w, m in zip(weights, means[c : c + 3], strict=True))
            share = 1 / (1 + torch.exp(torch.tensor(-drive, dtype=torch.float64)))
            torch.testing.assert_close(found[n, c], share * x[n, c], rtol=ROUNDING, atol=ROUNDING)


def test_an_even_reach_is_refused() -> None:
    with pytest.raises(InputError, match="reach=4 is even"):
        SECA(4)


class Gated(nn.Module):
    """A VGG's first layer with attention written into the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.lif = nn.Conv2d(2, 4, 3), SECA(), LIF()

    def forward(self, x: Tensor) -> Tensor:
        reset(self)
        return torch.stack([self.lif(self.gate(self.conv(x_t))) for x_t in x])


def test_attention_in_the_model_and_by_the_pass_are_the_same() -> None:
    torch.manual_seed(0)
    model = Gated().double()
    x = sequence(2, 6, 6)
    inside = snncompile.transform(model, MultiPrecision())(x)
    plain = copy.deepcopy(model)
    plain.gate = nn.Identity()  # type: ignore[assignment]
    fast = snncompile.transform(plain, MultiPrecision(attention=True), example_inputs=x)
    with torch.no_grad():
        fast.get_parameter(f"{_only(fast)}.attention.conv.weight").copy_(model.gate.conv.weight)

    torch.testing.assert_close(fast(x), inside, rtol=0, atol=0)
    assert (inside > 0).any()


def test_the_share_of_stateless_neurons_is_spread_evenly() -> None:
    program = snncompile.capture(PreActResNet18(width=4), torch.rand(2, 1, 3, 32, 32))
    labels = [str(node.meta["module"]) for node in program.neurons()]

    MultiPrecision(stateless=0.5)(program)

    without = [
        str(node.meta["module"])
        for node in program.neurons()
        if node.target is stateless_multi_precision
    ]
    assert without == labels[1::2]
    assert without == [f"layers.{i}.act2" for i in range(1, 9)]
    assert len(program.states) == 9


@pytest.mark.parametrize("share", [0.0, 0.29, 1 / 3, 0.7, 1.0])
def test_any_share_is_met(share: float) -> None:
    program = snncompile.capture(
        nn.Sequential(*(LIF() for _ in range(10))), torch.rand(3, 4), time_steps=3
    )

    MultiPrecision(stateless=share)(program)

    kinds = [node.target for node in program.neurons()]
    assert kinds.count(stateless_multi_precision) == int(10 * share + 1e-9)


class Membranes(Network):
    """Returns its membrane too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = LIF(), LIF()

    def forward(self, x: Tensor) -> Tensor:
        reset(self)
        seen = []
        for x_t in x:
            self.second(self.first(x_t))
            seen.append(self.second.membrane)
        return torch.stack(seen)  # type: ignore[arg-type]


def test_a_membrane_that_is_read_is_not_taken_away() -> None:
    program = snncompile.capture(Membranes(), torch.rand(3, 2, 4))
    before = text(program)

    with pytest.raises(PassRefusedError) as caught:
        MultiPrecision(stateless=0.5)(program)

    assert str(caught.value) == (
        "multi-precision: %spikes_1 (lif of second) is to lose its membrane, which %membrane_1 "
        "reads. Lower the share of stateless neurons."
    )
    assert text(program) == before


class Adaptive(nn.Module):
    """Norse's neuron with a moving threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.net = norse.SequentialState(nn.Linear(4, 4), norse.LSNNCell())

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x:
            out, state = self.net(x_t, state)
            outputs.append(out)
        return torch.stack(outputs)


def test_a_neuron_with_more_states_is_refused() -> None:
    program = snncompile.capture(Adaptive(), torch.rand(3, 2, 4))

    with pytest.raises(PassRefusedError) as caught:
        MultiPrecision()(program)

    assert str(caught.value) == (
        "multi-precision: %spikes (adaptive_lif of net.1) keeps more than a membrane, or another "
        "one than it fires by. Use a LIF, and this pass before others."
    )


def test_accumulating_neurons_are_refused() -> None:
    program = feedforward((4, 4, 4))
    SAF()(program)

    with pytest.raises(PassRefusedError, match="Use a LIF, and this pass before others"):
        MultiPrecision()(program)


def test_a_membrane_that_is_no_state_is_refused() -> None:
    step = Step(nn.ModuleDict())
    x, membrane = step.input("x", 4), step.state("lif", 4)
    spikes = step.lif(x, step.call(torch.relu, membrane), "lif")
    step.next["lif"] = spikes
    program = step.program(spikes)

    with pytest.raises(PassRefusedError) as caught:
        MultiPrecision()(program)

    assert str(caught.value) == (
        "multi-precision: %spikes (lif of lif) reads a membrane that is no state of the step. "
        "Hand it the membrane of the step before."
    )


def test_currents_without_channels_are_not_normalised() -> None:
    step = Step(nn.ModuleDict())
    x, membrane = step.input("x"), step.state("lif")
    program = step.program(step.lif(x, membrane, "lif"))

    with pytest.raises(PassRefusedError, match="has no channels to normalise"):
        MultiPrecision(norm=True)(program)


@pytest.mark.parametrize(
    "options",
    [
        {"decay": 1.0}, {"threshold": 0.0}, {"stateless": 1.5}, {"steps": 0}, {"bits": 0},
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must"):
        MultiPrecision(**options)


class Counted(VGG):
    """Counts the steps that its classifier saw."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.get_submodule("layers.15").register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.steps += len(output) // 3


@pytest.mark.parametrize("schedule", ["steps", "layers", 2])
def test_after_a_random_step_no_later_one_runs(schedule: ScheduleName | int) -> None:
    torch.manual_seed(0)
    model = Counted()
    x = sequence(2, 8, 8, dtype=torch.float32)
    fast = snncompile.transform(
        model, MultiPrecision(random_step=True), example_inputs=x, schedule=schedule
    )
    seen: list[int] = []

    for _ in range(40):
        model.steps = 0
        assert fast(x).shape == (1, 3, 5)
        seen.append(model.steps)

    assert set(seen) == set(range(1, STEPS + 1))
    fast.eval()(x)
    model.steps = 0
    assert fast(x).shape == (STEPS, 3, 5)
    assert model.steps == STEPS


def test_a_random_step_has_the_output_and_the_gradient_of_that_step_alone() -> None:
    drawn = vgg(MultiPrecision(steps=3, random_step=True))
    every = vgg(MultiPrecision(steps=3))
    every.load_state_dict(drawn.state_dict())
    x = sequence(2, 8, 8)
    torch.manual_seed(5)
    t = int(torch.randint(STEPS, ()))
    torch.manual_seed(5)

    out = drawn(x)
    expected = every(x)[t : t + 1]
    gradients = [
        torch.autograd.grad(value.square().sum(), list(net.parameters()), allow_unused=True)
        for net, value in ((drawn, out), (every, expected))
    ]

    assert t > 0
    torch.testing.assert_close(out, expected, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(*gradients, rtol=ROUNDING, atol=ROUNDING)


def test_norms_of_later_steps_keep_their_statistics_after_a_random_step() -> None:
    fast, x = vgg(MultiPrecision(steps=STEPS, norm=True, random_step=True)), sequence(2, 8, 8)
    torch.manual_seed(5)
    t = int(torch.randint(STEPS, ()))
    name = "multi_precision.layers_2_membrane.norm.running_mean"
    before = fast.get_buffer(name).clone()
    torch.manual_seed(5)

    fast(x)

    moved = (fast.get_buffer(name) != before).any(1).tolist()
    assert moved == [i <= t for i in range(STEPS)]


class SnnTorch(nn.Module):
    """A network of snnTorch, whose resets come a step late."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 2)
        self.lif1, self.lif2 = snntorch.Leaky(beta=0.5), snntorch.Leaky(beta=0.5)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        outputs = []
        for x_t in x:
            spikes, mem1 = self.lif1(self.fc1(x_t), mem1)
            spikes, mem2 = self.lif2(self.fc2(spikes), mem2)
            outputs.append(spikes)
        return torch.stack(outputs)


def spikingjelly() -> nn.Module:
    model = nn.Sequential(
        layer.Linear(4, 8), neuron.LIFNode(), layer.Linear(8, 2), neuron.ParametricLIFNode()
    )
    jelly.set_step_mode(model, "m")
    return model


@pytest.mark.parametrize("make", [SnnTorch, spikingjelly], ids=["snntorch", "spikingjelly"])
def test_neurons_of_libraries_are_replaced(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = lively_(make())
    x = sequence(4, dtype=torch.float32) * 4
    fast = snncompile.transform(model, MultiPrecision(steps=2), example_inputs=x)

    out = fast(x)

    kinds = {node.target for node in fast.program.neurons()}
    assert kinds == {multi_precision}
    assert out.shape == (STEPS, 3, 2)
    assert ((out > 0) & (out % 1 > 0)).any()


def test_a_neuron_called_twice_a_step_learns_one_set_of_parameters() -> None:
    class Twice(Network):
        def __init__(self) -> None:
            super().__init__()
            lif = LIF()
            self.layers = nn.Sequential(lif, lif)

    fast = snncompile.transform(Twice(), MultiPrecision(), example_inputs=torch.rand(3, 2, 4))

    assert len(list(fast.program.neurons())) == 2
    assert len(learned(fast)) == 2


@pytest.mark.parametrize(
    ("make", "shape"),
    [(Perceptron, (12,)), (VGG, (2, 8, 8)), (PreActResNet18, (3, 32, 32))],
    ids=["MLP", "VGG", "ResNet-18"],
)
def test_networks_run_forward_and_take_one_training_step_with_binary_weights(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    passes = [MultiPrecision(steps=2, bits=4, stateless=0.5, random_step=True), Binarize()]
    x = torch.rand(2, 2, *shape)
    fast = snncompile.transform(lively_(make()).train(), passes, example_inputs=x)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    before = copy.deepcopy(dict(fast.named_parameters()))

    loss = functional.cross_entropy(fast(x).mean(0), torch.tensor([3, 1]))
    torch.autograd.backward(loss)
    optimizer.step()

    moved = [k for k, v in fast.named_parameters() if not torch.equal(v, before[k])]
    assert torch.isfinite(loss)
    assert {key for key in before if key.endswith("weight")} <= set(moved)


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_steps_of_their_own_and_levels_are_exported(form: Any, tmp_path: Path) -> None:
    model = lively_(VGG()).eval()
    options = MultiPrecision(steps=3, bits=4, attention=True, stateless=0.5)
    x = sequence(2, 8, 8, dtype=torch.float32)
    fast = snncompile.transform(model, options, example_inputs=x)
    scatter_(fast)

    report = snncompile.export(fast, tmp_path / "net.onnx", form=form, example_inputs=x)

    assert report.agreement.moved == 0
    assert report.agreement.spikes > 0


def test_neurons_by_hand_get_parameters_by_their_membranes() -> None:
    step = Step(nn.ModuleDict())
    x = step.input("x", 4)
    membranes = [step.state(name, 4) for name in ("a", "b")]
    spikes = step.lif(step.lif(x, membranes[0], ""), membranes[1], "")
    program = step.program(spikes)

    MultiPrecision()(program)

    added = [key for key, _ in program.root.named_parameters()]
    assert added == [f"multi_precision.{m}.{p}" for m in "ab" for p in ("decay", "threshold")]


def test_a_network_with_a_submodule_of_that_name_keeps_it() -> None:
    program = convolutional()
    program.root.add_module("multi_precision", nn.Linear(2, 2))

    MultiPrecision()(program)

    assert isinstance(program.root.get_submodule("multi_precision"), nn.Linear)
    assert "multi_precision_.lif1_membrane.decay" in dict(program.root.named_parameters())

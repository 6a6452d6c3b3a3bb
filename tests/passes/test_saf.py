"""Spike accumulation forwarding: spikes, membranes, gradients of both variants and updates."""
# pyright: basic

import copy
from operator import getitem
from typing import Any

import pytest
import snntorch
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snncompile
from snncompile.ir import neurons
from snncompile.ir.neurons import accumulating
from snncompile.ir.program import Program
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.passes.saf import SAF
from snncompile.rewrite import copy_program
from snncompile.runtime.schedule import Recording
from tests.passes.plain_loop import assert_active, double, run
from tests.passes.saf_cases import CASES, PLAIN, Case
from tests.passes.saf_networks import Chain
from tests.passes.saf_references import SUM_ORDER, assert_close, online_steps, summed
from tests.programs import Step, dyadic_
from tests.reference import online, online_examples
from tests.reference.online import Rule

BFLOAT16 = 2e-2
"""Relative to the largest: a few roundings to 8 bits."""

UPDATES = 1e-10
"""As `SUM_ORDER`, after fifty updates that build on each other."""

RULES = [
    Rule(first_layer=first, bias=bias)
    for first in ("input", "trace")
    for bias in ("step", "accumulated")
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_plain_case = pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
every_schedule = pytest.mark.parametrize("schedule", ["steps", "layers", 4])
every_rule = pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: f"{rule.first_layer} {rule.bias}"
)
every_option = pytest.mark.parametrize(
    "option",
    [SAF(), SAF(update="online"), SAF(first_layer="trace"), SAF(bias="accumulated")],
    ids=["default", "online", "trace", "accumulated"],
)


def saf(model: nn.Module, option: SAF | None = None, schedule: Any = "layers") -> Transformed:
    return snncompile.transform(model, option or SAF(), schedule=schedule)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """What the parameters gathered since the last time."""
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def squared(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).sum() / 2


# Forward ------------------------------------------------------------------------------------------


@every_case
@every_option
def test_spikes_and_outputs_are_bit_equal(case: Case, option: SAF) -> None:
    model, x = case.model(dyadic=True), case.input(dyadic=True)

    report = snncompile.verify(model, saf(model, option), x)

    assert report.ok, str(report)
    assert report.moved == 0
    assert all(output.equal for output in report.outputs)
    assert all(neuron.membrane in (0.0, None) for neuron in report.neurons)
    assert {neuron.name for neuron in report.neurons}


@every_case
@every_schedule
def test_accumulations_are_the_traces_of_the_spikes(case: Case, schedule: Any) -> None:
    model, x = case.model(dyadic=True), case.input(dyadic=True)
    fast, recording = saf(model, schedule=schedule), Recording()

    fast.record(recording, x)

    assert_active([outputs[0] for outputs in emitted(fast, recording)])
    for spikes, accumulations in emitted(fast, recording):
        decay = 0.25 if torch.equal(accumulations, traces(spikes, 0.25)) else 0.5
        torch.testing.assert_close(accumulations, traces(spikes, decay), rtol=0, atol=0)


def emitted(fast: Transformed, recording: Recording) -> list[tuple[Tensor, ...]]:
    nodes = [node for node in fast.program.neurons() if node.target is accumulating]
    return [recording.outputs[node.name] for node in nodes]


def traces(spikes: Tensor, decay: float) -> Tensor:
    trace, found = torch.zeros_like(spikes[0]), []
    for fired in spikes:
        trace = decay * trace + fired
        found.append(trace)
    return torch.stack(found)


@every_case
def test_other_numbers_move_no_spike_in_float64(case: Case) -> None:
    model, x = case.model(dtype=torch.float64), case.input(dtype=torch.float64, batch=5)

    report = snncompile.verify(model, saf(model, schedule="steps"), x)

    assert report.ok, str(report)


def test_the_same_module_serves_other_batches_lengths_and_modes() -> None:
    case = PLAIN[1]
    model = case.model(dyadic=True)
    fast = saf(model)

    for batch, steps, training in ((2, 6, True), (5, 3, True), (1, 6, False), (2, 6, True)):
        model.train(training)
        x = case.input(dyadic=True, batch=batch)[:steps]
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)


# Gradients ----------------------------------------------------------------------------------------


def drawn(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """The active network in float64, its input and a target for every output."""
    model, x = case.model(dtype=torch.float64), case.input(dtype=torch.float64)
    return model, x, torch.rand(model(x).shape, dtype=torch.float64)


@every_plain_case
@every_rule
@pytest.mark.parametrize("schedule", ["steps", "layers"])
def test_the_gradient_is_that_of_ottt_summed(case: Case, rule: Rule, schedule: Any) -> None:
    model, x, target = drawn(case)
    reference = online_steps(model, x, lambda t, output: output - target[t], rule)
    fast = saf(model, SAF(first_layer=rule.first_layer, bias=rule.bias), schedule)

    torch.autograd.backward(squared(fast(x), target))

    assert_close(gradients(model), summed(reference))


@every_plain_case
@pytest.mark.parametrize("update", ["sequence", "online"])
def test_the_gradient_of_every_step_is_that_of_ottt(case: Case, update: Any) -> None:
    model, x, target = drawn(case)
    reference = online_steps(model, x, lambda t, output: output - target[t])

    for t, output in enumerate(saf(model, SAF(update=update)).steps(x)):
        torch.autograd.backward(squared(output, target[t]))

        expected_output, expected = reference[t]
        torch.testing.assert_close(output, expected_output, rtol=SUM_ORDER, atol=SUM_ORDER)
        found = gradients(model)
        assert_close_or_zero(found, expected)


def assert_close_or_zero(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """As `assert_close`; before anything has fired a gradient may be 0 or missing."""
    for name, value in expected.items():
        other = found.get(name, torch.zeros_like(value))
        scale = value.abs().max().item()
        torch.testing.assert_close(other, value, rtol=0, atol=SUM_ORDER * scale)


def test_jelly_and_plain_networks_have_the_same_gradients() -> None:
    plain, jelly = PLAIN[0], CASES[len(PLAIN)]
    model, x, target = drawn(plain)
    other = jelly.model(dtype=torch.float64)
    with torch.no_grad():
        for mine, yours in zip(model.parameters(), other.parameters(), strict=True):
            yours.copy_(mine)

    for network in (model, other):
        torch.autograd.backward(squared(saf(network)(x), target))

    for mine, yours in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, yours.grad, rtol=SUM_ORDER, atol=SUM_ORDER)


def perceptron(net: online.Mlp, *, mean: bool = False) -> nn.Module:
    """The reference's network as a module; layer l is ``layers.{2 l}``."""
    layers: list[nn.Module] = []
    for weight, bias in zip(net.weights, net.biases, strict=True):
        layers.append(nn.Linear(weight.shape[1], weight.shape[0]).double())
        layers[-1].load_state_dict({"weight": weight, "bias": bias})
        if len(layers) // 2 < len(net.decays):
            decay = net.decays[len(layers) // 2]
            layers.append(LIF(decay=decay, threshold=net.threshold, surrogate="sigmoid", width=4.0))
    return (Mean if mean else Chain)(*layers)


class Mean(Chain):
    """Its outputs, averaged over time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0)


def layer_gradients(model: nn.Module) -> online.Gradients:
    """(weight, bias) of every linear layer."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [(layer.weight.grad, layer.bias.grad) for layer in layers]  # type: ignore[misc]


def test_it_is_not_sltt() -> None:
    net = online_examples.make()
    x, loss = online_examples.sequence(), online_examples.squared()
    model = perceptron(net)

    output = saf(model)(x)
    output.backward(torch.stack([loss(t, y) for t, y in enumerate(output.detach())]))

    online_examples.assert_same(layer_gradients(model), online.summed(net, x, loss))
    sltt = online.summed(net, x, loss, Rule(presynaptic="spikes"))
    for (weight, _), (other, _) in zip(layer_gradients(model)[1:], sltt[1:], strict=True):
        assert (weight - other).abs().max() > 1e-3


def assert_same_weights(model: nn.Module, expected: online.Mlp) -> None:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for mine, weight, bias in zip(layers, expected.weights, expected.biases, strict=True):
        torch.testing.assert_close(mine.weight.data, weight, rtol=UPDATES, atol=UPDATES)
        torch.testing.assert_close(mine.bias.data, bias, rtol=UPDATES, atol=UPDATES)


def test_online_updates_follow_ottt_for_fifty_steps() -> None:
    net = online_examples.make()
    sequences = [(online_examples.sequence(), online_examples.squared()) for _ in range(5)]
    reference = online.train_online(net, sequences, 0.05)
    model = perceptron(net)
    fast = saf(model, SAF(update="online"))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    updates = 0
    for x, loss in sequences:
        for t, output in enumerate(fast.steps(x)):
            output.backward(loss(t, output.detach()))
            optimizer.step()
            optimizer.zero_grad()
            assert_same_weights(model, reference[updates])
            updates += 1

    assert updates == 50


def test_closed_forms_drift_when_weights_change_within_a_sequence() -> None:
    net = online_examples.make()
    x, loss = online_examples.sequence(), online_examples.squared()
    reference = online.train_online(net, [(x, loss)], 0.005)
    model = perceptron(net)
    optimizer = torch.optim.SGD(model.parameters(), 0.005)

    for t, output in enumerate(saf(model).steps(x)):
        output.backward(loss(t, output.detach()))
        optimizer.step()
        optimizer.zero_grad()

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    pairs = zip(layers, reference[-1].weights, strict=True)
    assert max((layer.weight - weight).abs().max().item() for layer, weight in pairs) > 1e-6


# The final variant --------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("schedule", ["steps", "layers"])
def test_the_final_gradient_is_the_spike_representations(threshold: float, schedule: Any) -> None:
    net = online_examples.make(decays=(0.5, 0.5), threshold=threshold)
    x, model = online_examples.sequence(), perceptron(net, mean=True)
    moment = online.run(net, x)[-1]
    weighting = torch.rand(x.shape[1], 4, dtype=torch.float64)

    output = saf(model, SAF(variant="final"), schedule)(x)
    output.backward(weighting)

    arriving = online.rates(moment)
    read_out = arriving[-1] @ net.weights[-1].T + net.biases[-1]
    torch.testing.assert_close(output, read_out, rtol=SUM_ORDER, atol=SUM_ORDER)
    slopes = [net.slope(membrane - net.threshold) for membrane in moment.membranes]
    expected = online.representation_gradients(net, arriving, slopes, weighting)
    depths = range(len(net.decays), -1, -1)
    scaled = [
        (threshold**k * w, threshold**k * b) for k, (w, b) in zip(depths, expected, strict=True)
    ]
    online_examples.assert_same(layer_gradients(model), scaled)


def test_a_stack_keeps_its_values_and_learns_from_its_last_step() -> None:
    case = PLAIN[0]
    model, x, _ = drawn(case)
    fast = saf(model, SAF(variant="final"))

    output = fast(x)
    output[:-1].sum().backward()

    torch.testing.assert_close(output, model(x), rtol=SUM_ORDER, atol=SUM_ORDER)
    assert not any(gradient.abs().sum() for gradient in gradients(model).values())
    fast(x)[-1].sum().backward()
    assert all(gradient.abs().sum() for gradient in gradients(model).values())


def test_without_a_leak_the_leaky_mean_is_the_mean() -> None:
    net = online_examples.make(decays=(1.0, 1.0))
    x, model = online_examples.sequence(), perceptron(net, mean=True)

    found = saf(model, SAF(variant="final"))(x)

    torch.testing.assert_close(found, model(x), rtol=SUM_ORDER, atol=SUM_ORDER)


# Other networks -----------------------------------------------------------------------------------


def dropping() -> nn.Module:
    """SpikingJelly's dropout, one mask a sequence, between neurons and behind a biased synapse."""
    settings = {"v_reset": None, "detach_reset": True, "decay_input": False, "step_mode": "m"}
    return nn.Sequential(
        layer.Linear(8, 16, step_mode="m"),
        neuron.LIFNode(**settings),
        layer.Dropout(0.25, step_mode="m"),
        layer.Linear(16, 12, step_mode="m"),
        layer.Dropout(0.25, step_mode="m"),
        neuron.LIFNode(**settings),
        layer.Linear(12, 4, step_mode="m"),
    )


@pytest.mark.parametrize("update", ["sequence", "online"])
def test_dropout_with_one_mask_a_sequence_commutes(update: Any) -> None:
    torch.manual_seed(0)
    model = dropping().double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    x, option = torch.rand(6, 5, 8).double(), SAF(update=update)

    reports = [snncompile.verify(model, saf(model, option, s), x) for s in ("steps", "layers")]

    assert all(report.ok for report in reports), str(reports[0])
    assert all(0 < neuron.rate < 1 for neuron in reports[0].neurons)


def test_both_schedules_repeat_the_masks_in_their_gradients() -> None:
    model = dropping().double().train()
    x, found = torch.rand(6, 5, 8).double() * 4, []

    for schedule in ("steps", "layers"):
        torch.manual_seed(1)
        torch.autograd.backward(saf(model, schedule=schedule)(x).square().sum())
        found.append(gradients(model))

    assert_close(*found)


class Leaky(nn.Module):
    """snnTorch: resets one step late, two decays, spikes and membranes returned."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 16), nn.Linear(16, 4)
        self.first, self.second = snntorch.Leaky(beta=0.5), snntorch.Leaky(beta=0.75)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.first.init_leaky(), self.second.init_leaky()
        spikes, membranes = [], []
        for x_t in x:
            fired, first = self.first(self.into(x_t), first)
            fired, second = self.second(self.out(fired), second)
            spikes.append(fired)
            membranes.append(second)
        return torch.stack(spikes), torch.stack(membranes)


def test_a_late_reset_takes_off_what_does_not_decay() -> None:
    model = dyadic_(Leaky(), 4.0)
    x = torch.randint(0, 5, (6, 5, 8)) / 4

    report = snncompile.verify(model, saf(model), x)

    assert report.ok, str(report)
    assert all(output.equal for output in report.outputs)
    assert all(neuron.membrane == 0 for neuron in report.neurons)


def test_the_model_infers_with_the_weights_that_were_trained() -> None:
    case = PLAIN[0]
    model, x = case.model(dtype=torch.float64), case.input(dtype=torch.float64)
    fast = saf(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(fast.parameters(), 0.01)

    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(fast(x).square().mean())
        optimizer.step()

    assert fast.original is model
    assert fast.state_dict().keys() == before.keys()
    assert all((before[name] != value).any() for name, value in model.state_dict().items())
    torch.testing.assert_close(fast.original(x), fast(x), rtol=SUM_ORDER, atol=SUM_ORDER)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_schedule
def test_torch_compile_and_copies_give_the_same(schedule: Any) -> None:
    case = PLAIN[0]
    model, x, target = drawn(case)
    fast = saf(model, schedule=schedule)
    torch.autograd.backward(squared(fast(x), target))
    expected = gradients(model)

    compiled = torch.compile(fast, backend="aot_eager")
    torch.autograd.backward(squared(compiled(x), target))

    assert_close(gradients(model), expected)
    torch.testing.assert_close(copy.deepcopy(fast)(x), fast(x), rtol=0, atol=0)


def test_both_schedules_see_autocast_in_both_passes() -> None:
    case = PLAIN[0]
    model, x = case.model(dyadic=True), case.input(dyadic=True)
    found = []

    for schedule in ("steps", "layers"):
        with torch.autocast("cpu", torch.bfloat16):
            output = saf(model, schedule=schedule)(x)
        torch.autograd.backward(output.float().square().sum())
        found.append(gradients(model))

    for name, value in found[0].items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=BFLOAT16 * scale)


# Other neurons ------------------------------------------------------------------------------------


def graded_layers(decay: float) -> Program:
    """Two layers of neurons that emit what lies above their threshold."""
    torch.manual_seed(0)
    root = dyadic_(nn.ModuleDict({"0": nn.Linear(8, 16), "1": nn.Linear(16, 4)}), 4.0)
    step = Step(root)
    value = step.input("x", 8)
    states = [step.state(f"{name}.membrane", width) for name, width in (("a", 16), ("b", 4))]
    for i, state in enumerate(states):
        current = step.module(str(i), value)
        settings = {"charge": neurons.Decay(decay), "threshold": 0.5}
        node = step.call(neurons.multi_precision, current, state, **settings)
        value, step.next[str(state.name)] = (step.call(getitem, node, item) for item in range(2))
    return step.program(value)


@pytest.mark.parametrize("option", [SAF(), SAF(update="online")])
def test_neurons_that_emit_graded_values_are_rewritten_too(option: SAF) -> None:
    before = double(graded_layers(0.5))
    after = copy_program(before)
    x = torch.randint(-8, 9, (6, 3, 8)).double() / 4

    assert option(after) == 2

    expected, _ = run(before, x)
    found, _ = run(after, x)
    assert expected[0].abs().sum() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

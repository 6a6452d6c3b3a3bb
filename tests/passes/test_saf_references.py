"""The networks written out for online learning against autograd, SpikingJelly and each other."""
# pyright: basic

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from tests.passes import saf_jelly
from tests.passes.saf_cases import PLAIN, TIME, Case
from tests.passes.saf_references import assert_close, online_steps, slope, summed
from tests.reference import online
from tests.reference.online import Mlp, Rule

RULES = [
    Rule(first_layer=first, bias=bias)
    for first in ("input", "trace")
    for bias in ("step", "accumulated")
]

every_case = pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
every_rule = pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: f"{rule.first_layer} {rule.bias}"
)


def drawn(case: Case) -> tuple[nn.Module, Tensor, online.LossGradient]:
    """The active network in float64, its input, and the gradient of a squared error."""
    model, x = case.model(dtype=torch.float64), case.input(dtype=torch.float64)
    targets = torch.rand(model(x).shape, dtype=torch.float64)
    return model, x, lambda t, output: output - targets[t]


@every_case
@every_rule
def test_outputs_are_the_networks_own(case: Case, rule: Rule) -> None:
    model, x = (
        case.model(dyadic=True, dtype=torch.float64),
        case.input(dyadic=True, dtype=torch.float64),
    )

    steps = online_steps(model, x, lambda _, output: output, rule)

    outputs = torch.stack([output for output, _ in steps])
    torch.testing.assert_close(outputs, model(x), rtol=0, atol=0)


@every_case
@every_rule
def test_a_first_step_has_no_past_and_the_gradient_of_autograd(case: Case, rule: Rule) -> None:
    model, x, loss = drawn(case)

    [(_, found)] = online_steps(model, x[:1], loss, rule)

    output = model(x[:1])
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(output, parameters, loss(0, output[0].detach())[None])
    named = dict(zip(names, expected, strict=True))
    reached = {name for name, value in named.items() if value.abs().max() > 0}
    assert len(reached) >= len(named) - 1
    assert_close({name: found[name] for name in reached}, {name: named[name] for name in reached})


@every_case
def test_the_past_counts_and_the_rules_differ(case: Case) -> None:
    model, x, loss = drawn(case)

    published = summed(online_steps(model, x, loss, Rule()))

    output = model(x)
    error = torch.stack([loss(t, output[t].detach()) for t in range(TIME)])
    bptt = torch.autograd.grad(output, list(model.parameters()), error)
    assert any(
        (found - expected).abs().max() > 1e-3 * expected.abs().max()
        for found, expected in zip(published.values(), bptt, strict=True)
    )
    for rule in RULES[1:]:
        other = summed(online_steps(model, x, loss, rule))
        assert any((other[name] - published[name]).abs().max() > 1e-6 for name in published)


@every_rule
def test_the_perceptron_has_the_gradients_by_hand(rule: Rule) -> None:
    model, x, loss = drawn(PLAIN[0])

    steps = online_steps(model, x, loss, rule)

    parameters = [parameter.detach() for parameter in model.parameters()]
    by_hand = Mlp(parameters[::2], parameters[1::2], [0.5, 0.5], slope)
    for (_, found), pairs in zip(steps, online.per_step(by_hand, x, loss, rule), strict=True):
        flat = [gradient for pair in pairs for gradient in pair]
        assert_close(found, dict(zip(found, flat, strict=True)))


@pytest.mark.parametrize(
    ("case", "form"), [(PLAIN[0], saf_jelly.mlp), (PLAIN[1], saf_jelly.vgg)], ids=["mlp", "vgg"]
)
def test_spikingjelly_has_the_same_gradients(case: Case, form: Callable[[], nn.Module]) -> None:
    model, x, loss = drawn(case)
    peer = ottt(form())
    for own, theirs in zip(model.parameters(), peer.parameters(), strict=True):
        theirs.data = own.detach().clone()

    for t, x_t in enumerate(x):
        output = peer(x_t)
        output.backward(loss(t, output.detach()))

    found = summed(online_steps(model, x, loss))
    expected: list[Any] = [parameter.grad for parameter in peer.parameters()]
    assert_close(found, dict(zip(found, expected, strict=True)))


def ottt(multistep: nn.Module) -> layer.OTTTSequential:
    """The modules of a multi-step network, in single steps, with OTTT's neurons."""
    modules = [_of_a_step(module) for module in multistep.children()]
    return layer.OTTTSequential(*modules).train()


def _of_a_step(module: Any) -> Any:
    if isinstance(module, neuron.LIFNode):
        return neuron.OTTTLIFNode(tau=2.0, surrogate_function=surrogate.Sigmoid(alpha=4.0))
    if hasattr(module, "step_mode"):
        module.step_mode = "s"
    return module

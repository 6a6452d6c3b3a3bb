"""The reversible neuron: its inverse, its gradients over a sequence, what it keeps."""

# pyright: basic

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from snncompile.errors import InputError
from snncompile.ir.charges import Blend, Decay, Integrate, Leak, Relax, RelaxRate
from snncompile.ir.grids import Grid, on_grid
from snncompile.ir.resets import Hard, Keep, Subtract
from snncompile.ir.reversible import Branch, error_growth, reverse, reversible_lif
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime.scan import scan
from tests.capture.networks import Fire
from tests.reference import reversible as reference

ATAN = Surrogate("atan", (2.0,))
GRID = Grid(8, 1.0)
LIF: dict[str, Any] = {"charge": Relax(2.0), "threshold": 1.0, "reset": Hard(), "surrogate": ATAN}
EXACT: dict[str, Any] = {**LIF, "grid": GRID}

REFERENCE_TOLERANCE = 1e-12
"""Relative, in float64: the same sums in another order."""
GRADIENT_TOLERANCE = 1e-10
"""Relative, in float64: autograd adds the same terms in another order, over up to 64 steps."""
PUBLISHED_RATIO = 58.65
"""Lei et al., 2023: how much less memory their node takes than "the current SNN node"."""


def currents(steps: int, dtype: torch.dtype = torch.float32, spread: float = 2.0) -> Tensor:
    return torch.randn(steps, 3, 8, 2, dtype=dtype) * spread


def over_time(x: Tensor, settings: dict[str, Any], *, watched: bool = False) -> tuple[Tensor, ...]:
    """Outputs and last membranes; where every membrane is watched, by the plain loop."""
    start = torch.zeros_like(x[0])
    wanted = (0, 1) if watched else (0,)
    sequences, last = scan(reversible_lif, x, (start,), tuple(settings.items()), wanted)
    output = sequences[0]
    assert output is not None
    return output, *last


def gradient(x: Tensor, settings: dict[str, Any], *, watched: bool = False) -> Tensor:
    """Of a loss that reads every output and the last membranes, by the currents."""
    torch.manual_seed(1)
    leaf = x.clone().requires_grad_()
    output, last = over_time(leaf, settings, watched=watched)
    loss = (output * torch.randn_like(output)).sum() + (last * torch.randn_like(last)).sum()
    return torch.autograd.grad(loss, leaf)[0]


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


def spikes(x: Tensor, output: Tensor, beta: float = 1.0) -> Tensor:
    """What fired: the output without the other half's current."""
    return (output - beta * x.roll(4, 2)).round()


# The definition ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "constants"),
    [
        ({"grid": GRID}, reference.Constants(bits=8, limit=1.0)),
        ({"alpha": 0.75, "beta": 0.5, "anchors": 4}, reference.Constants(alpha=0.75, beta=0.5)),
    ],
    ids=["on a grid", "with coefficients"],
)
def test_outputs_membranes_and_gradients_are_those_of_the_equations(
    settings: dict[str, Any], constants: reference.Constants
) -> None:
    x = torch.randn(24, 6, 2, dtype=torch.float64) * 2
    leaf = x.clone().requires_grad_()
    given, last = torch.randn(24, 6, 2).double(), torch.randn(6, 2).double()

    output, membrane = over_time(leaf, {**LIF, **settings})
    loss = (output * given).sum() + (membrane * last).sum()
    found = torch.autograd.grad(loss, leaf)[0]

    fired: list[float] = []
    for i in range(6):
        steps = reference.forward(x[:, i].tolist(), constants)
        expected = reference.gradients(steps, given[:, i].tolist(), pair(last[i]), constants)
        assert close(output[:, i], [step.output for step in steps])
        assert close(membrane[i], steps[-1].membrane)
        assert close(found[:, i], expected)
        fired += [half.spike for step in steps for half in step.halves]
    assert 0 < sum(fired) < len(fired)


def pair(values: Tensor) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def close(got: Tensor, wanted: Sequence[Any]) -> bool:
    return relative(got.detach(), torch.tensor(wanted, dtype=torch.float64)) < REFERENCE_TOLERANCE


# The inverse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [2.0, 0.25])
@pytest.mark.parametrize("charge", [Relax(2.0), Decay(0.9), Integrate()])
def test_the_inverse_has_the_bits_of_the_forward_pass(charge: Any, spread: float) -> None:
    settings = {**EXACT, "charge": charge}
    x = currents(256, spread=spread)
    output, membrane = over_time(x, settings)

    recovered = []
    for value in output.flip(0):
        current, membrane = reverse(value, membrane, Branch(**settings))
        recovered.append(current)

    fired = spikes(on_grid(x, 8), output)
    assert 0 < fired.mean() < 1
    assert torch.equal(torch.stack(recovered).flip(0), on_grid(x, 8))
    assert torch.equal(membrane, torch.zeros_like(membrane))


def test_without_rounding_the_inverse_stays_within_its_bound_for_as_long_as_said() -> None:
    x, start = currents(10), torch.zeros(3, 8, 2)
    settings = {**LIF, "alpha": 0.9, "beta": 0.9}
    forward = [start]
    for value in x:
        forward.append(reversible_lif(value, forward[-1], **settings)[1])
    output, membrane = over_time(x, settings)
    scale = max(float(value.abs().max()) for value in forward)
    growth = error_growth(Relax(2.0), 0.9)

    for back, value in enumerate(output.flip(0), start=1):
        _, membrane = reverse(value, membrane, Branch(**LIF), alpha=0.9, beta=0.9)

        bound = 4 * torch.finfo(torch.float32).eps * scale * growth**back
        assert (membrane - forward[-1 - back]).abs().max() <= bound


def test_silent_membranes_stay_bounded_on_the_grid_and_explode_without() -> None:
    x = torch.full((64, 1, 2), -1.0, dtype=torch.float64)

    _, bounded = over_time(x, EXACT)
    _, free = over_time(x, LIF)

    assert bounded.abs().max() <= 64
    assert free.abs().max() > 1e9


# The gradients -----------------------------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    EXACT,
    {**EXACT, "reset": Subtract()},
    {**EXACT, "reset": Subtract(detach=True), "charge": Decay(0.9)},
    {**EXACT, "reset": Hard(0.25, detach=True), "charge": Leak(4.0, 0.5)},
    {**EXACT, "reset": Hard(0.25), "charge": RelaxRate(0.25, -0.5), "strict": True},
    {**EXACT, "reset": Keep(), "charge": Blend(0.75, 0.5)},
    {**EXACT, "surrogate": Surrogate("function", (), Fire), "threshold": 0.5},
    {**EXACT, "surrogate": Surrogate("piecewise_leaky_relu", (1.0, 0.01))},
    {**LIF, "alpha": 0.9, "beta": 0.9, "anchors": 3},
    {**LIF, "alpha": 0.9, "beta": 0.9, "anchors": 1, "reset": Subtract()},
    {**LIF, "anchors": 4},
]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 7, 64])
@pytest.mark.parametrize("settings", CASES, ids=range(len(CASES)))
def test_gradients_equal_those_of_autograd_through_the_same_node(
    settings: dict[str, Any], steps: int
) -> None:
    x = currents(steps, torch.float64)

    found, expected = gradient(x, settings), gradient(x, settings, watched=True)

    assert torch.equal(over_time(x, settings)[0], over_time(x, settings, watched=True)[0])
    assert expected.abs().max() > 0
    assert relative(found, expected) < GRADIENT_TOLERANCE


def test_the_first_membrane_gets_its_gradient() -> None:
    x, start = currents(5, torch.float64), on_grid(torch.randn(3, 8, 2).double(), 8)
    found = []

    for wanted in ((0,), (0, 1)):
        leaf = start.clone().requires_grad_()
        (output, _), _ = scan(reversible_lif, x, (leaf,), tuple(EXACT.items()), wanted)
        assert output is not None
        found.append(torch.autograd.grad((output**2).sum(), leaf)[0])

    assert found[1].abs().max() > 0
    assert relative(found[0], found[1]) < GRADIENT_TOLERANCE


def test_a_learned_threshold_gets_its_gradient_from_autograd() -> None:
    threshold = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)

    output, _ = over_time(currents(6, torch.float64), {**EXACT, "threshold": threshold})

    assert torch.autograd.grad((output**2).sum(), threshold)[0].abs() > 0


def test_sums_beyond_the_range_of_the_grid_are_refused_when_a_gradient_is_wanted() -> None:
    x = currents(3)
    x[1, 0, 0, 0] = 70000.0

    over_time(x, EXACT)

    with pytest.raises(InputError, match=r"outputs of up to 70000 .* fewer bits or float64"):
        over_time(x.requires_grad_(), EXACT)


# What is kept ------------------------------------------------------------------------------------


def bytes_kept(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """What autograd keeps beyond the node's own input and output, which its neighbours keep."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run(x.requires_grad_())
    neighbours = {value.untyped_storage().data_ptr() for value in (x, output)}
    assert output.requires_grad
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in neighbours)


@pytest.mark.parametrize("steps", [16, 64, 256])
def test_the_node_keeps_less_than_spikingjellys_by_the_published_ratio(steps: int) -> None:
    theirs = bytes_kept(neuron.LIFNode(tau=2.0, step_mode="m"), currents(steps))
    ours = bytes_kept(lambda x: over_time(x, EXACT)[0], currents(steps))

    assert theirs >= PUBLISHED_RATIO * ours


def test_what_the_node_keeps_does_not_grow_with_time() -> None:
    kept = [bytes_kept(lambda x: over_time(x, EXACT)[0], currents(t)) for t in (1, 8, 64, 512)]

    membranes = currents(1)[0].numel()
    assert kept[0] == 2 * membranes
    assert max(kept) <= 4 * membranes


def test_anchors_are_all_that_is_kept_beyond_the_last_membranes() -> None:
    settings = {**LIF, "alpha": 0.9, "beta": 0.9, "anchors": 4}

    kept = bytes_kept(lambda x: over_time(x, settings)[0], currents(16))

    assert kept == (3 + 1) * 4 * currents(1)[0].numel()


def test_without_a_gradient_nothing_is_kept() -> None:
    with torch.no_grad():
        output, last = over_time(currents(4).requires_grad_(), EXACT)

    assert output.grad_fn is None
    assert last.grad_fn is None

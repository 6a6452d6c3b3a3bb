# pyright: basic
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snncompile.errors import PassRefusedError
from snncompile.ir import neurons
from snncompile.ir.program import Program
from snncompile.ir.windows import Projection, cut, windows
from snncompile.passes.one_step import OneStep
from tests.passes.plain_loop import assert_active, double, run
from tests.programs import Step, dyadic_, feedforward
from tests.reference import one_step as reference

projections = pytest.mark.parametrize("projection", ["sine", "mean"])


def plain(
    *channels: int, size: tuple[int, int] = (8, 8), pool: int = 1, **settings: Any
) -> Program:
    """Pooling, then convolution and LIF once per pair of channel counts; spikes are stacked."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)]
    root = dyadic_(nn.Sequential(*layers, nn.AvgPool2d(pool)), 4.0)
    step = Step(root)
    x = step.input("x", channels[0], size[0] * pool, size[1] * pool)
    membranes = [step.state(f"lif{i}.membrane", c, *size) for i, c in enumerate(channels[1:])]
    value = step.module(str(len(layers)), x) if pool > 1 else x
    for i, membrane in enumerate(membranes):
        value = step.lif(step.module(str(i), value), membrane, f"lif{i}", **settings)
    return step.program(value)


def spikes_of(program: Program, x: Tensor, *more: Tensor) -> Tensor:
    """The first output of one step, [N, ...]."""
    (output,), fired = run(program, x[None], *(value[None] for value in more))
    assert_active(fired)
    return output[0].detach()


def maps(*shape: int) -> Tensor:
    """Zeros and ones."""
    torch.manual_seed(1)
    return torch.randint(0, 2, shape).double()


def convolutions(program: Program) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of every convolution, in order."""
    found = [layer for layer in program.root.modules() if isinstance(layer, nn.Conv2d)]
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in found]  # type: ignore[union-attr]


def convolved(synapse: reference.Layer, piece: np.ndarray) -> np.ndarray:
    return reference.convolve(piece, *synapse)


def above(bounds: np.ndarray, piece: np.ndarray, window: int) -> np.ndarray:
    return np.where(piece > bounds[window], 1.0, 0.0)


def window_sizes(program: Program) -> list[tuple[int, ...]]:
    """The map sizes of all neurons, in order."""
    return [tuple(node.args[0].meta["val"].shape[2:]) for node in program.neurons()]  # type: ignore[union-attr]


@projections
def test_a_module_of_two_layers_is_that_of_the_reference(projection: Projection) -> None:
    program = double(plain(1, 3, 3))
    x = maps(2, 1, 8, 8)
    first, second = convolutions(program)

    OneStep(projection=projection)(program)

    for sample, spikes in zip(x, spikes_of(program, x), strict=True):
        expected = reference.two_layers(
            sample.numpy(), first, second, span="half", projection=projection
        )
        np.testing.assert_array_equal(spikes.numpy(), expected)


@pytest.mark.parametrize("channels", [(1, 3), (1, 3, 3)])
def test_without_memory_every_window_is_by_itself(channels: tuple[int, ...]) -> None:
    forgetful = neurons.Decay(0.0)
    program = double(plain(*channels, charge=forgetful))
    alone = double(plain(*channels, size=(4, 4), charge=forgetful))
    x = maps(2, 1, 8, 8)

    OneStep()(program)

    found = spikes_of(program, x)
    for place in windows(8, 8, "half"):
        expected = run(alone, cut(x, place)[None])[0][0][0].detach()
        torch.testing.assert_close(cut(found, place), expected, rtol=0, atol=0)


@projections
def test_membranes_are_handed_from_layer_to_layer_as_in_the_reference(
    projection: Projection,
) -> None:
    program = double(plain(3, 3, 3))
    x = maps(2, 3, 8, 8)
    synapses = convolutions(program)

    OneStep(handover="layers", windows="half", projection=projection)(program)

    for sample, spikes in zip(x, spikes_of(program, x), strict=True):
        values, membranes = sample.numpy(), np.zeros((3, 8, 8))
        for synapse in synapses:
            values, membranes = reference.handed_up(
                partial(convolved, synapse),
                values,
                membranes,
                projection=projection,
            )
        np.testing.assert_array_equal(spikes.numpy(), values)


def test_membranes_of_a_larger_map_are_averaged_for_the_layer_above() -> None:
    torch.manual_seed(0)
    root = nn.ModuleDict({"one": nn.Conv2d(2, 2, 3, padding=1), "two": nn.MaxPool2d(2)})
    dyadic_(root, 4.0)
    step = Step(root)
    image = step.input("x", 2, 8, 8)
    first, second = (step.state(f"lif{side}.membrane", 2, side, side) for side in (8, 4))
    below = step.lif(step.module("one", image), first, "lif1")
    current = step.call(torch.mul, step.module("two", below), 0.9375)
    program = double(step.program(step.lif(current, second, "lif2")))
    (synapse,) = convolutions(program)
    x = maps(8, 2, 8, 8)

    OneStep(handover="layers", projection="mean")(program)

    for sample, found in zip(x, spikes_of(program, x), strict=True):
        spikes, membranes = reference.handed_up(
            partial(convolved, synapse),
            sample.numpy(),
            np.zeros((2, 8, 8)),
            projection="mean",
        )
        pooled = spikes.reshape(2, 4, 2, 4, 2).max((2, 4)) * 0.9375
        merged = membranes.reshape(2, 4, 2, 4, 2).mean((2, 4))
        expected, _ = reference.handed_up(lambda piece: piece, pooled, merged, projection="mean")
        np.testing.assert_array_equal(found.numpy(), expected)


def test_modules_take_halves_and_three_quarters_in_turn_and_the_last_takes_halves() -> None:
    program = plain(1, 2, 2, 2, 2, 2, 2, 2, 2)

    OneStep()(program)

    sizes = window_sizes(program)
    assert sizes == [(4, 4)] * 8 + [(6, 6)] * 8 + [(4, 4)] * 16


def test_a_map_without_quarters_keeps_halves() -> None:
    program = plain(1, 2, 2, 2, size=(6, 8))

    OneStep(handover="layers")(program)

    assert set(window_sizes(program)) == {(3, 4)}


def test_overlapping_windows_are_averaged() -> None:
    program = double(plain(2, 2, 2, 2, charge=neurons.Decay(0.0)))
    synapses = convolutions(program)
    x = maps(8, 2, 8, 8)

    OneStep(handover="layers")(program)

    for sample, found in zip(x, spikes_of(program, x), strict=True):
        values = sample.numpy()
        for span, synapse in zip(("half", "three-quarters", "half"), synapses, strict=True):
            pieces = []
            for piece in reference.cut((values > 0.5).astype(np.float64), span):
                current = reference.convolve(piece, *synapse)
                pieces.append(reference.fire(current, np.zeros_like(current), 0.0, 1.0)[0])
            values = reference.stitch(pieces, 8, 8)
        np.testing.assert_array_equal(found.numpy(), values)


@pytest.mark.parametrize("encoding", ["threshold", "bernoulli"])
def test_a_convolution_reads_encoded_values(encoding: Any) -> None:
    program = double(plain(2, 3, 3, pool=2))
    x = torch.rand(2, 2, 16, 16, dtype=torch.float64)
    first, second = convolutions(program)
    draw = torch.rand(2, 4 * 2 * 4 * 4, dtype=torch.float64)

    OneStep(encoding=encoding)(program)

    more = (draw,) if encoding == "bernoulli" else ()
    found = spikes_of(program, x, *more)
    for sample, numbers, spikes in zip(x, draw, found, strict=True):
        bounds = numbers.reshape(4, 2, 4, 4).numpy() if more else np.full((4, 2, 4, 4), 0.5)
        pooled = sample.reshape(2, 8, 2, 8, 2).mean((2, 4)).numpy()
        expected = reference.two_layers(
            pooled,
            first,
            second,
            span="half",
            projection="sine",
            encode=partial(above, bounds),
        )
        np.testing.assert_array_equal(spikes.numpy(), expected)


@pytest.mark.parametrize(("gradient", "passes"), [(True, True), (False, False)])
def test_gradients_pass_the_encoding_if_they_may(gradient: bool, passes: bool) -> None:
    program = plain(1, 2, pool=2)
    OneStep(gradient=gradient)(program)
    x = torch.rand(1, 2, 1, 16, 16, requires_grad=True)

    (output,), _ = run(program, x)
    (found,) = torch.autograd.grad(output.sum(), x)

    assert bool(found.any()) == passes


def test_spikes_and_the_networks_own_input_are_not_encoded() -> None:
    program = plain(1, 2, 2, 2)

    OneStep(encoding="bernoulli", windows="half")(program)

    assert [spec.name for spec in program.inputs] == ["x"]


def feedback() -> Program:
    """A LIF layer on a map whose last spikes come back through a second convolution."""
    torch.manual_seed(0)
    layers = {"into": nn.Conv2d(1, 3, 3, padding=1), "back": nn.Conv2d(3, 3, 3, padding=1)}
    root = dyadic_(nn.ModuleDict(layers), 4.0)
    step = Step(root)
    x = step.input("x", 1, 8, 8)
    membrane = step.state("lif.membrane", 3, 8, 8)
    spikes = step.state("lif.spikes", 3, 8, 8)
    current = step.call(torch.add, step.module("into", x), step.module("back", spikes))
    fired = step.lif(current, membrane, "lif")
    step.next["lif_spikes"] = fired
    return double(step.program(fired))


def test_feedback_goes_from_window_to_window() -> None:
    program = feedback()
    into, back = convolutions(program)
    x = maps(2, 1, 8, 8)

    OneStep()(program)

    for sample, found in zip(x, spikes_of(program, x), strict=True):
        spikes = membrane = np.zeros((3, 4, 4))
        pieces = []
        for piece in reference.cut(sample.numpy(), "half"):
            current = reference.convolve(piece, *into) + reference.convolve(spikes, *back)
            spikes, membrane = reference.fire(current, membrane, 0.5, 1.0)
            pieces.append(spikes)
        np.testing.assert_array_equal(found.numpy(), reference.stitch(pieces, 8, 8))


def test_a_rest_that_is_not_zero_is_where_windows_start() -> None:
    program = feedback()
    program.states = tuple(
        type(state)(state.name, state.label, 0.5, state.shape) for state in program.states
    )
    into, back = convolutions(program)
    x = maps(1, 1, 8, 8)

    OneStep()(program)

    spikes = membrane = np.full((3, 4, 4), 0.5)
    piece = reference.cut(x[0].numpy(), "half")[0]
    current = reference.convolve(piece, *into) + reference.convolve(spikes, *back)
    expected, _ = reference.fire(current, membrane, 0.5, 1.0)
    np.testing.assert_array_equal(spikes_of(program, x)[0, :, :4, :4].numpy(), expected)


def odd() -> Program:
    return plain(1, 2, size=(7, 8))


def per_position() -> Program:
    return plain(1, 2, threshold=torch.ones(2, 8, 8))


def computed_start() -> Program:
    program = plain(1, 2)
    program.prologue = torch.fx.Graph()
    x = program.prologue.placeholder("x")
    start = program.prologue.call_function(torch.zeros_like, (x,))
    program.prologue.output((x, start))
    state = program.states[0]
    program.states = (type(state)(state.name, state.label, start.name, state.shape),)
    return program


def flat_feedback() -> Program:
    torch.manual_seed(0)
    layers = {
        "conv": nn.Conv2d(1, 1, 3, padding=1),
        "flat": nn.Flatten(),
        "back": nn.Linear(16, 16),
    }
    step = Step(nn.ModuleDict(layers))
    x = step.input("x", 1, 4, 4)
    first = step.state("lif1.membrane", 1, 4, 4)
    second, spikes = step.state("lif2.membrane", 16), step.state("lif2.spikes", 16)
    flat = step.module("flat", step.lif(step.module("conv", x), first, "lif1"))
    current = step.call(torch.add, flat, step.module("back", spikes))
    fired = step.lif(current, second, "lif2")
    step.next["lif2_spikes"] = fired
    return step.program(fired)


def top_down() -> Program:
    torch.manual_seed(0)
    layers = {name: nn.Conv2d(1, 1, 3, padding=1) for name in ("one", "two", "down")}
    step = Step(nn.ModuleDict(layers))
    x = step.input("x", 1, 4, 4)
    first, second, spikes = (
        step.state(label, 1, 4, 4) for label in ("lif1.membrane", "lif2.membrane", "lif2.spikes")
    )
    current = step.call(torch.add, step.module("one", x), step.module("down", spikes))
    below = step.lif(current, first, "lif1")
    both = step.call(torch.add, step.module("two", below), below)
    fired = step.lif(both, second, "lif2")
    step.next["lif2_spikes"] = fired
    return step.program(fired, below)


def numbered() -> Program:
    program = plain(1, 2)
    program.one_length = True
    return program


def online() -> Program:
    program = plain(1, 2)
    program.gradient = "each-step"
    return program


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            odd,
            (
                "%spikes (lif of lif0) is on a map of 7x8, which has no four windows of one size. Pad "
                "or pool the map to even sides."
            ),
        ),
        (
            feedforward,
            (
                "%spikes (lif of lif0) is on no feature map [N, C, H, W], so that there is nothing to "
                "cut into windows. Use the pass on a network with convolutional spiking layers."
            ),
        ),
        (
            per_position,
            (
                "%spikes (lif of lif0) has a setting for every position of its map, but its windows "
                "share one neuron. Give it one setting a channel."
            ),
        ),
        (
            computed_start,
            (
                "%lif0_membrane (placeholder) starts from a value that is computed before the steps. "
                "Start it from a number."
            ),
        ),
        (
            flat_feedback,
            (
                "%lif2_spikes (placeholder) feeds back where there is no feature map, so that no "
                "window hands it on. Take the feedback out, or make the layer convolutional."
            ),
        ),
        (
            top_down,
            (
                "%lif2_spikes (placeholder) feeds back beyond the layers that share their windows, "
                "which one step never sees. Take the feedback out, or keep it within one layer."
            ),
        ),
        (
            online,
            (
                "%output (output) belongs to a program whose gradient another pass cut between "
                "steps. Leave that pass out."
            ),
        ),
        (
            numbered,
            (
                "%output (output) treats steps by their number after its loop, and one step has no "
                "others. Sum, average or stack over time."
            ),
        ),
    ],
)
def test_what_cannot_be_one_step_is_refused(make: Any, message: str) -> None:
    program = make()
    before = program.step

    with pytest.raises(PassRefusedError) as caught:
        OneStep()(program)

    assert str(caught.value) == f"one-step: {message}"
    assert program.step is before


def test_feedback_between_layers_of_one_module_is_handed_on() -> None:
    torch.manual_seed(0)
    layers = {name: nn.Conv2d(1, 1, 3, padding=1) for name in ("one", "two", "down")}
    step = Step(dyadic_(nn.ModuleDict(layers), 4.0))
    x = step.input("x", 1, 4, 4)
    first, second, spikes = (
        step.state(label, 1, 4, 4) for label in ("lif1.membrane", "lif2.membrane", "lif2.spikes")
    )
    current = step.call(torch.add, step.module("one", x), step.module("down", spikes))
    fired = step.lif(step.module("two", step.lif(current, first, "lif1")), second, "lif2")
    step.next["lif2_spikes"] = fired
    program = step.program(fired)

    assert OneStep()(program) == 2
    assert program.states == ()

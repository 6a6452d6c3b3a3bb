"""Scans as torch operators: what training loops do with them."""

# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from snncompile.errors import SnncompileError
from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.kernels import operators, threads
from snncompile.runtime.scan import NeuronScan
from tests.kernels.comparison import assert_agree, fused, looped, operands

LIF: dict[str, Any] = {
    "charge": neurons.Decay(0.5),
    "threshold": 1.0,
    "reset": neurons.Subtract(),
    "surrogate": Surrogate("atan", (2.0,)),
}


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_any_number_of_steps(steps: int) -> None:
    assert_agree(neurons.lif, operands(1, steps, 3, 5), LIF)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (1023,), (1025,)], ids=str)
def test_any_number_of_elements(shape: tuple[int, ...]) -> None:
    assert_agree(neurons.lif, operands(1, 3, *shape), LIF)


@pytest.mark.parametrize("count", [1, 2])
def test_a_million_elements_on_several_threads(count: int) -> None:
    threshold = torch.tensor(0.9, requires_grad=True, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert_agree(neurons.lif, operands(1, 3, 10**6), {**LIF, "threshold": threshold})
    finally:
        torch.set_num_threads(before)


def test_threads_change_nothing() -> None:
    given = operands(1, 5, 100_000)
    threshold = torch.tensor(0.9, requires_grad=True, dtype=torch.float64)
    found: list[tuple[Tensor, ...]] = []
    before = torch.get_num_threads()

    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert threads.division(5, 100_000).workers == min(count, 5 * 100_000 // 2**17)
        (spikes, _), _ = fused(
            neurons.lif, given[0], given[1:], {**LIF, "threshold": threshold}, (0,)
        )
        found.append((spikes, *torch.autograd.grad(spikes.sum(), [*given, threshold])))
    torch.set_num_threads(before)

    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def layouts(current: Tensor) -> dict[str, Tensor]:
    """One sequence [4, 2, 3, 5, 6], laid out in several ways."""
    channels_last = current.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    wider = torch.zeros(4, 2, 3, 5, 12, dtype=current.dtype)
    wider[..., ::2] = current
    return {
        "channels last": torch.unflatten(channels_last, 0, (4, 2)),
        "batch first": current.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": wider[..., ::2],
        "reversed axes": current.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        "same at every step": current[0].expand(4, 2, 3, 5, 6),
        "same everywhere": current[0, 0, 0, 0, 0].expand(4, 2, 3, 5, 6),
        "every other step": current.repeat_interleave(2, 0)[::2],
    }


@pytest.mark.parametrize("name", layouts(torch.zeros(4, 2, 3, 5, 6)))
def test_any_layout(name: str) -> None:
    current, membrane = operands(1, 4, 2, 3, 5, 6, grad=False)
    current = layouts(current)[name].detach().requires_grad_()
    bias = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)

    assert_agree(neurons.lif, [current, membrane], {**LIF, "threshold": bias}, (0, 1))


def test_channels_last_stays_channels_last() -> None:
    current = torch.rand(8, 3, 5, 6).contiguous(memory_format=torch.channels_last)

    (spikes, _), _ = fused(
        neurons.lif, torch.unflatten(current, 0, (4, 2)), (torch.zeros(2, 3, 5, 6),), LIF, (0,)
    )

    assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_gradients_are_computed_where_they_are_needed(needs: tuple[bool, bool]) -> None:
    given = operands(1, 4, 3)
    for value, need in zip(given, needs, strict=True):
        value.requires_grad_(need)
    decay = torch.tensor(0.5, dtype=torch.float64, requires_grad=needs == (False, False))

    assert_agree(neurons.lif, given, {**LIF, "charge": neurons.Decay(decay)})


def test_nothing_is_kept_without_gradients() -> None:
    current, membrane = operands(1, 4, 3)

    with torch.no_grad():
        (spikes, _), _ = fused(neurons.lif, current, (membrane,), LIF, (0,))

    assert not spikes.requires_grad


def test_inference_mode() -> None:
    current, membrane = operands(1, 5, 3, grad=False)
    settings = {**LIF, "threshold": 0.75}
    (expected, _), _ = looped(neurons.lif, current, (membrane,), settings, (0,))

    with torch.inference_mode():
        (spikes, _), _ = fused(neurons.lif, current, (membrane,), settings, (0,))

    assert torch.equal(spikes, expected)


def test_the_sweep_back_keeps_one_float_an_element_and_step() -> None:
    current, membrane = operands(1, 6, 50, dtype=torch.float32)
    fused(neurons.lif, current, (membrane,), LIF, (0,))
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused(neurons.lif, current, (membrane,), LIF, (0,))

    assert sum(sizes) == 4 * 6 * 50


def test_an_output_that_nothing_reaches_is_constant() -> None:
    current, membrane = operands(1, 4, 3)

    def neuron(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        return (current > membrane).to(current.dtype), membrane + current

    (spikes, _), (final,) = fused(neuron, current, (membrane,), {}, (0,))

    assert not spikes.requires_grad
    assert final.requires_grad


def test_a_second_derivative_is_refused() -> None:
    current, membrane = operands(1, 4, 3)
    (spikes, _), _ = fused(neurons.lif, current, (membrane,), LIF, (0,))
    (gradient,) = torch.autograd.grad(spikes.sum(), current, create_graph=True)

    with pytest.raises(SnncompileError, match="SNNCOMPILE_KERNELS=off"):
        torch.autograd.backward(gradient.sum())


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_takes_it_as_one_graph(dynamic: bool) -> None:
    neuron = NeuronScan(neurons.lif, tuple(LIF.items()))
    current, membrane = operands(1, 4, 3, 5)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def step(current: Tensor, membrane: Tensor) -> Tensor:
        return neuron(2 * current, (membrane,), (), (0,))[0][0].sum(0)  # type: ignore[union-attr]

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=dynamic)

    assert torch.equal(compiled(current, membrane), step(current, membrane))
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert "snncompile.neuron_scan.default" in targets


def test_gradients_through_torch_compile() -> None:
    neuron = NeuronScan(neurons.lif, tuple(LIF.items()))
    current, membrane = operands(1, 4, 3, 5)

    def step(current: Tensor, membrane: Tensor) -> Tensor:
        return neuron(2 * current, (membrane,), (), (0,))[0][0].sum(0)  # type: ignore[union-attr]

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")

    expected = torch.autograd.grad(step(current, membrane).sum(), (current, membrane))
    found = torch.autograd.grad(compiled(current, membrane).sum(), (current, membrane))
    assert all(map(torch.equal, found, expected))


def test_torchs_own_check_of_operators() -> None:
    current, membrane = operands(1, 4, 2, 3, 5)
    threshold = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    fused(neurons.lif, current, (membrane,), {**LIF, "threshold": threshold}, (0, 1))
    key = list(operators._kernels)[-1]

    torch.library.opcheck(
        torch.ops.snncompile.neuron_scan.default,
        (key, current.detach(), [membrane.detach()], [threshold.detach()]),
    )


def test_fake_tensors_have_the_shapes_and_strides_of_real_ones() -> None:
    current = torch.rand(8, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    given = (torch.unflatten(current, 0, (4, 2)), (torch.zeros(2, 3, 5, 6),))
    (spikes, _), (membrane,) = fused(neurons.lif, *given, LIF, (0,))

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = (mode.from_tensor(given[0]), (mode.from_tensor(given[1][0]),))
        (fake_spikes, _), (fake_membrane,) = fused(neurons.lif, *fakes, LIF, (0,))

    assert (fake_spikes.shape, fake_spikes.stride()) == (spikes.shape, spikes.stride())
    assert (fake_membrane.shape, fake_membrane.stride()) == (membrane.shape, membrane.stride())


def test_autocast_changes_nothing_in_single_precision() -> None:
    current, membrane = operands(1, 4, 3, dtype=torch.float32, grad=False)
    (expected, _), _ = looped(neurons.lif, current, (membrane,), LIF, (0,))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found, _), _ = fused(neurons.lif, current, (membrane,), LIF, (0,))

    assert torch.equal(found, expected)

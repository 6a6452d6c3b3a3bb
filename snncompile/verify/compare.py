"""Compares what two networks computed: outputs, gradients, the spikes of every neuron."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snncompile.ir.program import Program, is_spiking, origin
from snncompile.runtime.schedule import Recording
from snncompile.verify.distance import distances, membranes
from snncompile.verify.observe import Emitted, Observed, over_time, watched
from snncompile.verify.report import GradientComparison, NeuronComparison, OutputComparison

GRADIENT_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Sums in another order: a few hundred roundings of each precision."""

SMALLEST_GRADIENT = 1e-2
"""Of the largest gradient's norm. What is smaller is mostly rounding: the gradient of a bias in
front of a training-mode BatchNorm is zero in exact arithmetic."""

HALF_TOLERANCE = 1e-2
"""Of gradients in half precision: 10 or 7 bits."""

OUTPUT_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Of outputs, relative to the largest; other dtypes must be equal."""


def compare_outputs(
    expected: Any,  # noqa: ANN401
    result: Any,  # noqa: ANN401
) -> tuple[tuple[OutputComparison, ...], list[str]]:
    """Every leaf of two results.

    Args:
        expected: What the model returned.
        result: What its transformed self returned.

    Returns:
        One comparison a tensor, and a sentence for every leaf that cannot be compared.
    """
    wanted, spec = pytree.tree_flatten_with_path(expected)
    found, other = pytree.tree_flatten(result)
    if spec != other:
        return (), [f"the result has another structure: {other} instead of {spec}"]
    comparisons: list[OutputComparison] = []
    problems: list[str] = []
    for (path, want), have in zip(wanted, found, strict=True):
        name = pytree.keystr(path) or "result"
        if not isinstance(want, Tensor):
            if want != have:
                problems.append(f"output {name} is {have!r} instead of {want!r}")
        elif not isinstance(have, Tensor) or (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(f"output {name} has another shape or dtype")
        else:
            comparisons.append(_compare_output(name, want.detach(), have.detach()))
    return tuple(comparisons), problems


def _compare_output(name: str, want: Tensor, have: Tensor) -> OutputComparison:
    difference = float((want.double() - have.double()).abs().max()) if want.numel() else 0.0
    scale = float(want.double().abs().max()) if want.numel() else 0.0
    tolerance = OUTPUT_TOLERANCE.get(want.dtype, 0.0)
    return OutputComparison(name, torch.equal(want, have), difference, scale, tolerance)


def loss_gradients(
    network: nn.Module,
    result: Any,  # noqa: ANN401
    leaves: list[Tensor],
    seed: int | None,
) -> dict[str, Tensor | None]:
    """Gradients of a fixed random linear function of the result, by parameter and input.

    Args:
        network: Whose parameters are asked for.
        result: What it returned.
        leaves: The floating-point inputs, which are asked for as well.
        seed: Of the function's weights; None asks for no gradients.

    Returns:
        A gradient a name, None where the result does not depend on it; empty when nothing in the
        result carries a gradient.
    """
    if seed is None:
        return {}
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros(())
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.requires_grad:
            weight = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
            loss = loss + (leaf * weight.to(leaf.device)).sum().cpu()
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    tensors = [p for _, p in network.named_parameters() if p.requires_grad] + leaves
    names += [f"input {i}" for i in range(len(leaves))]
    if not loss.requires_grad:
        return {}
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    return dict(zip(names, found, strict=True))


def compare_gradients(
    wanted: dict[str, Tensor | None], found: dict[str, Tensor | None]
) -> tuple[GradientComparison, ...]:
    """Relative errors; a gradient that is zero but for rounding is held against the largest.

    Args:
        wanted: The model's gradients by name.
        found: Those of its transformed self.

    Returns:
        One comparison for every name in `wanted`.
    """
    norms = {n: _norm(g) for n, g in wanted.items() if g is not None}
    floor = SMALLEST_GRADIENT * max(norms.values(), default=0.0)
    comparisons: list[GradientComparison] = []
    for name, gradient in wanted.items():
        other = found.get(name)
        reference = gradient if gradient is not None else other
        if reference is None:
            comparisons.append(GradientComparison(name, 0.0, 1.0))
            continue
        want, have = (torch.zeros_like(reference) if g is None else g for g in (gradient, other))
        difference = _norm(want.double() - have.double())
        error = difference / max(norms.get(name, 0.0), floor) if difference else 0.0
        tolerance = GRADIENT_TOLERANCE.get(reference.dtype, HALF_TOLERANCE)
        comparisons.append(GradientComparison(name, error, tolerance))
    return tuple(comparisons)


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def compare_neurons(
    program: Program, seen: Observed, recording: Recording, problems: list[str]
) -> tuple[NeuronComparison, ...]:
    """Every neuron of the program whose module or Function the model ran as well.

    Args:
        program: The transformed program.
        seen: What the model's neurons emitted.
        recording: What the program's emitted.
        problems: A sentence is added for a neuron whose shape differs.

    Returns:
        One comparison a neuron, in execution order.
    """
    wanted = over_time(program, seen)
    names = Counter(origin(node) for node in watched(program) if node.name in wanted)
    comparisons: list[NeuronComparison] = []
    for node in watched(program):
        want = wanted.get(node.name)
        if want is None:
            continue
        name = origin(node) if names[origin(node)] == 1 else f"{origin(node)} ({node.name})"
        shape = recording.outputs[node.name][0].shape
        if want.spikes.shape == shape:
            comparisons.append(_compare_neuron(program, node, name, want, recording))
        else:
            problems.append(f"neuron {name} emits {tuple(shape)}, not {tuple(want.spikes.shape)}")
    return tuple(comparisons)


def _compare_neuron(
    program: Program, node: fx.Node, name: str, want: Emitted, recording: Recording
) -> NeuronComparison:
    given = tuple(value.detach() for value in recording.inputs[node.name])
    found = tuple(value.detach() for value in recording.outputs[node.name])
    membrane, spikes = _difference(want.membrane, membranes(program, node, given, found)), found[0]
    total, rate = want.spikes.numel(), float(want.spikes.double().mean())
    moved = want.spikes != spikes if is_spiking(node) else torch.zeros_like(spikes).bool()
    count = int(moved.sum())
    if count == 0:
        return NeuronComparison(name, total, 0, rate, membrane=membrane)
    first = tuple(int(i) for i in moved.nonzero()[0])
    away = distances(program, node, given)
    distance = None if away is None else float(away[first[0]][moved[first[0]]].abs().max())
    return NeuronComparison(name, total, count, rate, first, distance, membrane)


def _difference(want: Tensor | None, have: Tensor | None) -> float | None:
    """The largest difference of membranes at the steps that the model's were seen at."""
    if want is None or have is None or want.shape[1:] != have.shape[1:]:
        return None
    difference = float((want.double() - have[-len(want) :].double()).abs().max())
    return difference / max(float(want.abs().max()), 1.0)

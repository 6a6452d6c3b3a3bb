"""Is a transformed network still the model it came from? Compares the two on given inputs."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.ir.program import Program, is_spiking, origin
from snncompile.module import Transformed
from snncompile.runtime.schedule import Recording
from snncompile.verify.distance import distances
from snncompile.verify.observe import Observed, observed, reset
from snncompile.verify.report import (
    GradientComparison,
    Keeps,
    NeuronComparison,
    OutputComparison,
    Report,
)

__all__ = ["Report", "verify"]

GRADIENT_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Sums in another order: a few hundred roundings of each precision."""

SMALLEST_GRADIENT = 1e-2
"""Of the largest gradient's norm. What is smaller is mostly rounding: the gradient of a bias in
front of a training-mode BatchNorm is zero in exact arithmetic."""

OUTPUT_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
SEED = 0


def verify(
    model: nn.Module,
    transformed: nn.Module,
    *inputs: Any,  # noqa: ANN401
    gradients: bool = True,
    seed: int = SEED,
) -> Report:
    """Compare a model with its transformed self.

    Both run on copies from the same random state, with hidden states cleared; the model, its
    gradients and its statistics are left as they were.

    Args:
        model: The model the user has.
        transformed: What `snncompile.transform` made of it.
        *inputs: The arguments of one call of either.
        gradients: Compare gradients of a random linear loss as well.
        seed: Of the random numbers (dropout masks) and of that loss.

    Returns:
        The report; ``report.ok`` says that nothing differs beyond rounding.

    Raises:
        TypeError: `transformed` does not come from `snncompile.transform`.
    """
    if not isinstance(transformed, Transformed):
        raise TypeError(
            f"verify compares with what snncompile.transform returns, not {type(transformed).__name__}"
        )
    model, transformed = detached_copy((model, transformed))
    reset(model)
    transformed.reset()
    program = transformed.program_for(*inputs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mine, leaves = _fresh(inputs)
        with observed(model) as neurons:
            expected = model(*mine)
        torch.manual_seed(seed)
        theirs, other_leaves = _fresh(inputs)
        result, recording = transformed.record(*theirs)
        keeps = _keeps(transformed)
        outputs, problems = _compare_outputs(expected, result)
        compared: tuple[GradientComparison, ...] = ()
        if gradients and keeps == "outputs" and not problems:
            wanted = _gradients(model, expected, leaves, seed)
            found = _gradients(transformed, result, other_leaves, seed)
            compared = _compare_gradients(wanted, found)
    layers = () if keeps == "interface" else _compare_neurons(program, neurons, recording, problems)
    rounding = 1e-9 if any(o.tolerance < 1e-9 for o in outputs) else 1e-3
    return Report(keeps, outputs, layers, compared, tuple(problems), rounding)


def detached_copy(networks: Any) -> Any:  # noqa: ANN401
    """A deep copy of modules; hidden states that hang on a graph of autograd lose it."""
    memo: dict[int, Any] = {}
    for network in networks:
        for module in network.modules():
            for leaf in pytree.tree_leaves(vars(module)):
                if isinstance(leaf, Tensor) and not leaf.is_leaf:
                    memo[id(leaf)] = leaf.detach().clone()
    return copy.deepcopy(networks, memo)


def _keeps(transformed: Transformed) -> Keeps:
    order: tuple[Keeps, ...] = ("interface", "spikes")
    kept = [item.keeps for item in transformed.passes]
    return next((keeps for keeps in order if keeps in kept), "outputs")


def _fresh(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The inputs with fresh leaves for gradients, and those leaves."""
    leaves: list[Tensor] = []

    def fresh(tensor: Tensor) -> Tensor:
        copied = tensor.detach().clone()
        if copied.is_floating_point():
            leaves.append(copied.requires_grad_())
        return copied

    return pytree.tree_map_only(Tensor, fresh, inputs), leaves


def _compare_outputs(
    expected: Any, result: Any  # noqa: ANN401
) -> tuple[tuple[OutputComparison, ...], list[str]]:
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


def _gradients(
    network: nn.Module, result: Any, leaves: list[Tensor], seed: int  # noqa: ANN401
) -> dict[str, Tensor | None]:
    """Gradients of a fixed random linear function of the result, by parameter and input."""
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


def _compare_gradients(
    wanted: dict[str, Tensor | None], found: dict[str, Tensor | None]
) -> tuple[GradientComparison, ...]:
    """Relative errors; a gradient that is zero but for rounding is held against the largest."""
    norms = {n: float(g.double().norm()) for n, g in wanted.items() if g is not None}
    floor = SMALLEST_GRADIENT * max(norms.values(), default=0.0)
    comparisons: list[GradientComparison] = []
    for name, gradient in wanted.items():
        other = found.get(name)
        reference = gradient if gradient is not None else other
        if reference is None:
            comparisons.append(GradientComparison(name, 0.0, 1.0))
            continue
        want, have = (torch.zeros_like(reference) if g is None else g for g in (gradient, other))
        difference = float((want.double() - have.double()).norm())
        error = difference / max(norms.get(name, 0.0), floor) if difference else 0.0
        tolerance = GRADIENT_TOLERANCE.get(reference.dtype, 1e-2)
        comparisons.append(GradientComparison(name, error, tolerance))
    return tuple(comparisons)


def _compare_neurons(
    program: Program, seen: dict[str, Observed], recording: Recording, problems: list[str]
) -> tuple[NeuronComparison, ...]:
    """Every neuron of the program whose module the original ran as well."""
    nodes: dict[str, list[Any]] = {}
    for node in program.neurons():
        if is_spiking(node) or node.target.__name__ == "integrator":
            nodes.setdefault(origin(node), []).append(node)
    comparisons: list[NeuronComparison] = []
    for name, found in nodes.items():
        if name not in seen or not seen[name].spikes:
            continue
        for position, node in enumerate(found):
            want = seen[name].steps(len(found), position, multi_step=program.multi_step)
            have = recording.outputs[node.name][0].detach()
            if want.shape != have.shape:
                problems.append(f"neuron {name} emits {tuple(have.shape)}, not {tuple(want.shape)}")
                continue
            label = name if len(found) == 1 else f"{name}, call {position}"
            comparisons.append(_compare_spikes(program, node, label, want, recording))
    return tuple(comparisons)


def _compare_spikes(
    program: Program, node: Any, name: str, want: Tensor, recording: Recording  # noqa: ANN401
) -> NeuronComparison:
    have = recording.outputs[node.name][0].detach()
    moved = want != have if is_spiking(node) else torch.zeros_like(want, dtype=torch.bool)
    count, rate = int(moved.sum()), float(want.double().mean())
    if count == 0:
        return NeuronComparison(name, want.numel(), 0, rate)
    first = tuple(int(i) for i in moved.nonzero()[0])
    away = distances(program, node, tuple(t.detach() for t in recording.inputs[node.name]))
    at_first = moved[first[0]]
    distance = None if away is None else float(away[first[0]][at_first].abs().max())
    return NeuronComparison(name, want.numel(), count, rate, first, distance)

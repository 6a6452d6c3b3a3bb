"""Scans as torch operators, so that autograd, torch.compile and fake tensors know them.

A kernel is named by its key, which is a digest of its source: graphs that torch.compile keeps on
disk mean the same kernel in every process.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from snncompile.errors import SnncompileError
from snncompile.kernels.kernel import Kernel
from snncompile.kernels.layout import Layout, layout_of
from snncompile.kernels.operator import operator

_kernels: dict[str, Kernel] = {}


def register(kernel: Kernel) -> str:
    """Make a kernel known to the operators; returns its key."""
    return _kernels.setdefault(kernel.key, kernel).key


@operator("snncompile::neuron_scan")
def neuron_scan(
    kernel: str, current: Tensor, states: Sequence[Tensor], settings: Sequence[Tensor]
) -> list[Tensor]:
    """Scan a neuron over time.

    Args:
        kernel: The key of its kernel.
        current: [T, N, ...].
        states: Before the first step, each [N, ...].
        settings: Its tensor settings, each one number or broadcasting to [N, ...].

    Returns:
        The wanted results, each [T, N, ...], the final states, each [N, ...], and what the
        backward pass needs.
    """
    return _kernels[kernel].forward(current, states, settings, layout_of(current))


@neuron_scan.register_fake
def _(
    kernel: str, current: Tensor, states: Sequence[Tensor], settings: Sequence[Tensor]
) -> list[Tensor]:
    return _kernels[kernel].outputs(layout_of(current), current)


@operator("snncompile::neuron_scan_backward")
def neuron_scan_backward(
    kernel: str,
    kept: Sequence[Tensor],
    settings: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    layout: Sequence[int],
) -> list[Tensor]:
    """The gradients of a scan.

    Args:
        kernel: The key of its kernel.
        kept: What the kernel keeps.
        settings: As in the scan.
        gradients: Of the wanted results and of the final states; None is zero.
        layout: The shape of the current, [T, N, ...], and the order of a step's axes in memory.

    Returns:
        Gradients of the current, the states and the settings that need one.
    """
    return _kernels[kernel].backward(kept, settings, gradients, _unpacked(layout))


@neuron_scan_backward.register_fake
def _(
    kernel: str,
    kept: Sequence[Tensor],
    settings: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    layout: Sequence[int],
) -> list[Tensor]:
    like = next(tensor for tensor in (*kept, *gradients) if tensor is not None)
    return _kernels[kernel].derivatives(_unpacked(layout), settings, like)


def _unpacked(layout: Sequence[int]) -> Layout:
    axes = (len(layout) + 1) // 2
    return Layout(tuple(layout[:axes]), tuple(layout[axes:]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:  # noqa: ANN401
    key, current, states, settings = inputs
    kernel = _kernels[key]
    layout = layout_of(current)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*kernel.constants(output))
    ctx.kernel, ctx.layout = key, (*layout.shape, *layout.order)
    kept = kernel.kept(current, states, output)
    ctx.kept = len(kept)
    ctx.save_for_backward(*kept, *settings)


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:  # noqa: ANN401
    sweeps = _kernels[ctx.kernel].sweeps
    definition, derivatives = sweeps.definition, sweeps.step.derivatives
    saved = ctx.saved_tensors  # once: what checkpoints run again can be taken once
    kept, settings = saved[: ctx.kept], saved[ctx.kept :]
    results = gradients[: len(definition.wanted) + definition.states]
    if all(gradient is None for gradient in results):
        return None, None, [None] * definition.states, [None] * len(settings)
    found = neuron_scan_backward(ctx.kernel, kept, settings, results, ctx.layout)
    waiting = iter(found)
    current, *others = [next(waiting) if needs else None for needs in definition.differentiable]
    flowing = [
        gradient if node is not None else None
        for gradient, node in zip((current, *others), derivatives, strict=True)
    ]
    after = 1 + definition.states
    return None, flowing[0], flowing[1:after], flowing[after:]


neuron_scan.register_autograd(_differentiate, _keep)


def _refuse(ctx: Any, *gradients: Any) -> None:  # noqa: ANN401
    raise SnncompileError(
        "a fused scan has no second derivative; set SNNCOMPILE_KERNELS=off to differentiate the "
        "loop over time instead"
    )


neuron_scan_backward.register_autograd(_refuse)

"""A generated kernel: which arrays its two sweeps take, and running them on tensors."""

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snncompile.kernels import build, c
from snncompile.kernels.layout import Layout
from snncompile.kernels.step import Definition, trace
from snncompile.kernels.sweep import Kept, Sweeps, sweeps
from snncompile.kernels.threads import Function, blocks, run


@dataclass(frozen=True)
class Kernel:
    """Both sweeps of one definition.

    Attributes:
        key: A digest of all that the kernel is; the same in every process.
        sweeps: What they compute.
        functions: The compiled ones, ``forward`` and perhaps ``backward``.
    """

    key: str
    sweeps: Sweeps
    functions: tuple[Function, ...]

    def outputs(self, layout: Layout, like: Tensor) -> list[Tensor]:
        """New tensors: the wanted results, the final states, what is saved for the sweep back."""
        definition = self.sweeps.definition
        kinds = [(definition.dtype, True)] * len(definition.wanted)
        kinds += [(definition.dtype, False)] * definition.states
        kinds += [(node.meta["val"].dtype, True) for node in self.sweeps.saved]
        return [layout.empty(like, dtype, steps=steps) for dtype, steps in kinds]

    def forward(
        self, current: Tensor, states: Sequence[Tensor], settings: Sequence[Tensor], layout: Layout
    ) -> list[Tensor]:
        """Scan; returns what `outputs` describes."""
        rows = layout.rows(current)
        outputs = self.outputs(layout, current)
        arrays = [(rows, rows.stride(0)), *((layout.flat(state), 0) for state in states)]
        arrays += self._settings(settings, layout)
        sequences = len(self.sweeps.definition.wanted)
        finals = sequences + len(states)
        for i, output in enumerate(outputs):
            arrays.append((output, 0 if sequences <= i < finals else layout.width))
        run(self.functions[0], layout.shape[0], layout.width, arrays)
        return outputs

    def kept(
        self, current: Tensor, states: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """What the sweep back needs of a scan's operands and outputs; settings come on top."""
        definition = self.sweeps.definition
        saved = iter(outputs[len(definition.wanted) + definition.states :])
        found: list[Tensor] = []
        for kept in self.sweeps.kept:
            match kept.source:
                case "current":
                    found.append(current)
                case "saved":
                    found.append(next(saved))
                case "sequence" | "before":
                    found.append(outputs[definition.wanted.index(kept.position)])
            if kept.source == "before":
                found.append(states[kept.position - 1])
        return found

    def derivatives(self, layout: Layout, settings: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """New tensors: gradients of all states, and of current and settings that need one."""
        definition = self.sweeps.definition
        current, *needs = definition.differentiable
        found = [layout.empty(like, definition.dtype, steps=False) for _ in range(definition.states)]
        if current:
            found.append(layout.empty(like, definition.dtype, steps=True))
        pairs = zip(settings, needs[definition.states :], strict=True)
        return found + [torch.empty_like(setting) for setting, need in pairs if need]

    def backward(
        self,
        kept: Sequence[Tensor],
        settings: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        layout: Layout,
    ) -> list[Tensor]:
        """Sweep back.

        Args:
            kept: What `kept` returned.
            settings: The tensor settings.
            gradients: Of the wanted results, then of the final states; None where there is none.
            layout: Of the scan's current.

        Returns:
            What `derivatives` describes.
        """
        definition = self.sweeps.definition
        like = next(tensor for tensor in (*kept, *gradients) if tensor is not None)
        found = self.derivatives(layout, settings, like)
        zeros = like.new_zeros(layout.width, dtype=definition.dtype)
        arrays = [*self._kept(kept, layout), *self._settings(settings, layout)]
        for gradient in gradients[: len(definition.wanted)]:
            rows = zeros if gradient is None else layout.rows(gradient)
            arrays.append((rows, 0 if gradient is None else rows.stride(0)))
        for gradient, carried in zip(gradients[len(definition.wanted) :], found, strict=False):
            arrays += [(zeros if gradient is None else layout.flat(gradient), 0), (carried, 0)]
        if definition.differentiable[0]:
            arrays.append((found[definition.states], layout.width))
        sums = self._sums(layout, like)
        arrays += [(total, 0) for total in sums]
        run(self.functions[1], layout.shape[0], layout.width, arrays)
        for total, result in zip(sums, found[len(found) - len(sums) :], strict=True):
            _reduce(total, result, layout)
        return found

    def _kept(self, tensors: Sequence[Tensor], layout: Layout) -> list[tuple[Tensor, int]]:
        arrays: list[tuple[Tensor, int]] = []
        waiting = iter(tensors)
        for kept in self.sweeps.kept:
            rows = layout.rows(next(waiting))
            arrays.append((rows, rows.stride(0)))
            if kept.source == "before":
                arrays.append((layout.flat(next(waiting)), 0))
        return arrays

    def _settings(self, settings: Sequence[Tensor], layout: Layout) -> list[tuple[Tensor, int]]:
        scalars = self.sweeps.definition.scalars
        pairs = zip(settings, scalars, strict=True)
        return [(setting if one else layout.flat(setting), 0) for setting, one in pairs]

    def _sums(self, layout: Layout, like: Tensor) -> list[Tensor]:
        """Where settings' gradients are summed: one an element, or one a block for a scalar."""
        definition = self.sweeps.definition
        needs = definition.differentiable[1 + definition.states :]
        sizes = [
            [blocks(layout.width)] if one else [layout.shape[axis + 1] for axis in layout.order]
            for one, need in zip(definition.scalars, needs, strict=True)
            if need
        ]
        return [like.new_empty(size, dtype=torch.float64) for size in sizes]


def _reduce(total: Tensor, result: Tensor, layout: Layout) -> None:
    """Sum what was summed over time over what the setting was broadcast to."""
    if result.numel() == 1:
        result.copy_(total.sum().reshape(result.shape))
        return
    back = sorted(range(len(layout.order)), key=layout.order.__getitem__)
    result.copy_(total.permute(back).sum_to_size(result.shape))


def generate(definition: Definition) -> Kernel:
    """Trace, part, print, compile.

    Raises:
        NotElementwiseError: The neuron is no elementwise arithmetic of fixed rounding.
        BuildError: This machine cannot compile it.
    """
    parted = sweeps(definition, trace(definition))
    source = c.source(parted)
    shape = (definition.states, definition.scalars, definition.wanted, definition.differentiable)
    digest = hashlib.sha256(f"{shape} {definition.dtype} {source}".encode()).hexdigest()
    library = build.library(source)
    names = ("forward", "backward") if parted.step.gradients else ("forward",)
    functions = [getattr(library, name) for name in names]
    for function in functions:
        function.restype = None
    return Kernel(digest[:32], parted, tuple(functions))

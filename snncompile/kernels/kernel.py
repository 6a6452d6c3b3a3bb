"""A generated kernel: its two sweeps, run on tensors."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snncompile.kernels.cpu import Cpu
from snncompile.kernels.layout import Layout
from snncompile.kernels.step import Definition, trace
from snncompile.kernels.sweep import Sweeps, sweeps
from snncompile.kernels.target import Launch, Target
from snncompile.kernels.team import Function
from snncompile.kernels.threads import Array


@dataclass(frozen=True)
class Kernel:
    """Both sweeps of one definition.

    Attributes:
        key: A digest of all that the kernel is; the same in every process.
        sweeps: What they compute.
        functions: The compiled ones, ``forward`` and perhaps ``backward``.
        target: Where they run.
    """

    key: str
    sweeps: Sweeps
    functions: tuple[Function, ...]
    target: Target

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
        outputs = self.outputs(layout, current)
        sequences = len(self.sweeps.definition.wanted)
        finals = range(sequences, sequences + len(states))
        arrays = [
            _sequence(current, layout),
            *(Array(layout.flat(state)) for state in states),
            *self._settings(settings, layout),
            *(
                Array(output, 0 if i in finals else layout.width)
                for i, output in enumerate(outputs)
            ),
        ]
        self.target.launch(layout, current, self.sweeps.definition.dtype).run(
            self.functions[0], arrays
        )
        return outputs

    def kept(
        self, current: Tensor, states: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """What the sweep back needs of a scan's operands and outputs, beyond the settings."""
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

    def constants(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Those results and states that no gradient can flow out of."""
        definition, carrying = self.sweeps.definition, self.sweeps.step.carrying
        results = (*definition.wanted, *range(1, 1 + definition.states))
        return [out for out, i in zip(outputs, results, strict=False) if not carrying[i]]

    def derivatives(self, layout: Layout, settings: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """New tensors: gradients of the current, the states and the settings that need one."""
        definition = self.sweeps.definition
        current, states, others = definition.needs
        found = [layout.empty(like, definition.dtype, steps=True)] if current else []
        found += [layout.empty(like, definition.dtype, steps=False) for need in states if need]
        pairs = zip(settings, others, strict=True)
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
        launch = self.target.launch(layout, like, definition.dtype)
        found = self.derivatives(layout, settings, like)
        pairs = zip(definition.scalars, definition.needs[2], strict=True)
        totals = [launch.total(one=one) for one, need in pairs if need]
        arrays = [
            *self._kept(kept, layout),
            *self._settings(settings, layout),
            *self._gradients(gradients, launch),
            *self._carried(found, launch),
            *(array for _, parts in totals for array in parts),
        ]
        launch.run(self.functions[1], arrays)
        for (total, _), result in zip(totals, found[len(found) - len(totals) :], strict=True):
            result.copy_(_summed(total, result.shape))
        return found

    def _kept(self, tensors: Sequence[Tensor], layout: Layout) -> Iterable[Array]:
        waiting = iter(tensors)
        for kept in self.sweeps.kept:
            yield _sequence(next(waiting), layout)
            if kept.source == "before":
                yield Array(layout.flat(next(waiting)))

    def _settings(self, settings: Sequence[Tensor], layout: Layout) -> Iterable[Array]:
        for setting, one in zip(settings, self.sweeps.definition.scalars, strict=True):
            yield Array(setting if one else layout.flat(setting))

    def _gradients(
        self, gradients: Sequence[Tensor | None], launch: Launch
    ) -> Iterable[Array | None]:
        """Gradients that flow in: of the wanted results, then of the final states."""
        for i, gradient in enumerate(gradients):
            if gradient is None:
                yield launch.zeros()
            elif i < len(self.sweeps.definition.wanted):
                yield _sequence(gradient, launch.layout)
            else:
                yield Array(launch.layout.flat(gradient))

    def _carried(self, derivatives: Sequence[Tensor], launch: Launch) -> Iterable[Array | None]:
        """Gradients of the states, which the sweep carries from step to step; of the current."""
        current, states, _ = self.sweeps.definition.needs
        waiting = iter(derivatives[current:])
        for need in states:
            yield Array(next(waiting)) if need else launch.scratch()
        if current:
            yield Array(derivatives[0], launch.layout.width)


def _sequence(sequence: Tensor, layout: Layout) -> Array:
    rows = layout.rows(sequence)
    return Array(rows, rows.stride(0))


def _summed(total: Tensor, shape: torch.Size) -> Tensor:
    """A setting's gradient: the sum over what the setting was broadcast to."""
    return total.sum().reshape(shape) if shape.numel() == 1 else total.sum_to_size(shape)


def generate(definition: Definition, target: Target | None = None) -> Kernel:
    """Trace, part, print, compile.

    Args:
        definition: Of the neuron.
        target: The CPU, if it is None.

    Raises:
        NotElementwiseError: The neuron is no elementwise arithmetic of fixed rounding.
        BuildError: This machine cannot compile it.
    """
    target = target or Cpu()
    parted = sweeps(definition, trace(definition))
    source, functions = target.build(parted)
    shape = (definition.states, definition.scalars, definition.wanted, definition.differentiable)
    identity = f"{target.name} {definition.device} {shape} {definition.dtype} {source}"
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return Kernel(digest[:32], parted, functions, target)

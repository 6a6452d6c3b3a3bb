"""What `snncompile.verify` found: equal or not, and if not, where first and by how much."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from snncompile.memory.report import KeptBySegment

Keeps = Literal["outputs", "spikes", "interface"]


@dataclass(frozen=True)
class OutputComparison:
    """One tensor of the result.

    Attributes:
        name: Its place in the result.
        equal: Bit for bit.
        difference: The largest absolute difference.
        scale: The largest absolute value of the original's.
        tolerance: What rounding may explain, relative to `scale`.
    """

    name: str
    equal: bool
    difference: float
    scale: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Equal up to rounding."""
        return self.equal or self.difference <= self.tolerance * max(self.scale, 1.0)


@dataclass(frozen=True)
class NeuronComparison:
    """One neuron layer over all steps.

    Attributes:
        name: The module it is in the user's model.
        spikes: How many numbers were compared: steps times batch times neurons.
        moved: How many of them differ.
        rate: The original's mean output: the firing rate.
        first: Step and index of the first that differs.
        distance: The largest distance from the threshold among the first step's moved spikes.
        membrane: The largest difference of the membranes, relative to the largest of them (at
            least 1): of every step, or of the last one where one call of the library covers all;
            None where it keeps none.
    """

    name: str
    spikes: int
    moved: int
    rate: float
    first: tuple[int, ...] | None = None
    distance: float | None = None
    membrane: float | None = None


@dataclass(frozen=True)
class GradientComparison:
    """The gradient of one parameter or input.

    Attributes:
        name: The parameter's name, or "input 0".
        error: Norm of the difference, relative to the norm of the original's (or to a hundredth
            of the largest gradient's, where that is larger).
        tolerance: What is accepted.
    """

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Within tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The comparison of a model with its transformed self on given inputs.

    Attributes:
        keeps: What the passes promise; a "spikes" pass has its own gradients, an "interface" pass
            its own function, of which only shapes are compared.
        outputs: Every tensor of the result.
        neurons: Every neuron layer, in execution order.
        gradients: Every parameter and floating input; empty when not asked for.
        problems: What could not be compared, or has another shape.
        rounding: Distances from the threshold up to which a spike may move by rounding.
        memory: What a training step keeps for its backward pass, where the pass `recompute` is
            among the passes.
    """

    keeps: Keeps
    outputs: tuple[OutputComparison, ...]
    neurons: tuple[NeuronComparison, ...]
    gradients: tuple[GradientComparison, ...]
    problems: tuple[str, ...] = field(default=())
    rounding: float = 0.0
    memory: tuple[KeptBySegment, ...] = field(default=())

    @property
    def moved(self) -> int:
        """How many spikes differ, over all neurons and steps."""
        return sum(neuron.moved for neuron in self.neurons)

    @property
    def first_divergence(self) -> NeuronComparison | None:
        """The neuron layer whose spikes differ at the earliest step; of several the first."""
        diverged = [neuron for neuron in self.neurons if neuron.first is not None]
        return min(diverged, key=lambda neuron: (neuron.first or (0,))[0], default=None)

    @property
    def ok(self) -> bool:
        """No spike moved, and outputs and gradients agree up to rounding."""
        if self.problems:
            return False
        if self.keeps == "interface":
            return True
        membranes = [n.membrane for n in self.neurons if n.membrane is not None]
        same = self.moved == 0 and all(output.ok for output in self.outputs)
        same = same and all(difference <= self.rounding for difference in membranes)
        return same and all(gradient.ok for gradient in self.gradients)

    @property
    def explained(self) -> bool:
        """Every difference follows from a spike that sat within rounding of its threshold."""
        first = self.first_divergence
        if self.problems or first is None:
            return self.ok
        return first.distance is not None and first.distance <= self.rounding

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        verdict = {"ok": self.ok, "explained": self.explained, "moved": self.moved}
        return {**verdict, **asdict(self)}

    def __str__(self) -> str:
        lines = [self._verdict(), *(f"problem: {problem}" for problem in self.problems)]
        lines += [_output_line(output) for output in self.outputs]
        lines += [_neuron_line(neuron) for neuron in self.neurons]
        if self.gradients:
            lines.append(self._gradient_line())
        lines += [f"keeps {kept}" for kept in self.memory]
        return "\n".join(lines)

    def _verdict(self) -> str:
        if self.keeps == "interface" and self.ok:
            return "ok: shapes agree (the passes change the function)"
        total = sum(neuron.spikes for neuron in self.neurons)
        if self.ok:
            return f"ok: {total} spikes equal, outputs and gradients agree"
        first = self.first_divergence
        if first is None:
            return "differs: outputs or gradients, but no spike"
        distance = "unknown" if first.distance is None else f"{first.distance:.3g}"
        why = "within rounding" if self.explained else "more than rounding"
        return (
            f"differs: {self.moved} of {total} spikes moved, first in '{first.name}' at "
            f"[step, index] {list(first.first or ())}, {distance} from threshold ({why})"
        )

    def _gradient_line(self) -> str:
        worst = max(self.gradients, key=lambda gradient: gradient.error / gradient.tolerance)
        return (
            f"gradients of {len(self.gradients)} tensors: worst {worst.name}, relative error "
            f"{worst.error:.2e} (accepted {worst.tolerance:.0e})"
        )


def _output_line(output: OutputComparison) -> str:
    same = "bit-equal" if output.equal else f"differs by {output.difference:.3g}"
    return f"output {output.name}: {same} (largest value {output.scale:.3g})"


def _neuron_line(neuron: NeuronComparison) -> str:
    moved = "all equal" if neuron.moved == 0 else f"{neuron.moved} moved"
    membrane = "" if neuron.membrane is None else f", membranes within {neuron.membrane:.3g}"
    return (
        f"neuron {neuron.name}: {neuron.spikes} spikes at rate {neuron.rate:.3f}, {moved}{membrane}"
    )

"""What an export wrote, and how exactly it agrees with torch."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from snncompile.export.encodings import ENCODINGS, Encoding

Form = Literal["step", "sequence", "unrolled"]


@dataclass(frozen=True)
class Agreement:
    """How a file compared with torch on the inputs of the check.

    Attributes:
        steps: How many time steps ran.
        spikes: How many spikes (and other comparisons with a threshold) were compared.
        moved: How many of them fell on the other side of their threshold, their inputs being
            equal up to rounding.
        difference: The largest absolute difference of outputs and states, over the samples
            without moved spikes.
    """

    steps: int
    spikes: int
    moved: int
    difference: float


@dataclass(frozen=True)
class EncodedWeights:
    """What encoding the weights did.

    Attributes:
        layers: For every synapse, by the name of its weight, how its weight is stored.
        bytes: What the weights of all synapses take in the file.
        bytes_of_float32: What they would take as float32.
        moved: How many spikes of the check differ, in torch, from those with the float weights.
        difference: The largest absolute difference that makes to the model's results.
    """

    layers: dict[str, Encoding]
    bytes: int
    bytes_of_float32: int
    moved: int
    difference: float


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        bytes: Its size.
        form: "step", "sequence" or "unrolled".
        opset: The version of its operators.
        nodes: How many nodes its main graph has.
        functions: The names of its local functions.
        exactness: "exact" or "tolerance".
        reason: Why it is not exact; empty when it is.
        agreement: The comparison with torch, which computes with the encoded weights too.
        weights: What encoding the weights did.
    """

    path: Path
    bytes: int
    form: Form
    opset: int
    nodes: int
    functions: tuple[str, ...]
    exactness: Literal["exact", "tolerance"]
    reason: str
    agreement: Agreement
    weights: EncodedWeights

    def __str__(self) -> str:
        """A few lines for people."""
        compared = self.agreement
        known = f"{self.exactness} ({self.reason})" if self.reason else self.exactness
        return (
            f"{self.path}: {self.bytes:,} bytes, opset {self.opset}, {self.form} form\n"
            f"  {self.nodes} nodes; functions: {', '.join(self.functions) or 'none'}\n"
            f"  {self._weights()}\n"
            f"  arithmetic: {known}\n"
            f"  onnxruntime against torch, {compared.steps} steps: {compared.moved} of "
            f"{compared.spikes:,} spikes moved, largest difference {compared.difference:.3g}"
        )

    def _weights(self) -> str:
        held = self.weights
        counts = Counter(held.layers.values())
        listed = ", ".join(f"{counts[name]} {name}" for name in ENCODINGS if name in counts)
        line = f"weights: {held.bytes:,} bytes; layers: {listed or 'none'}"
        if set(counts) <= {"float32"}:
            return line
        return (
            f"{line}; float32 would take {held.bytes_of_float32 / held.bytes:.1f} times as much\n"
            f"  encoded against float32 weights: {held.moved:,} of {self.agreement.spikes:,} "
            f"spikes differ, results by {held.difference:.3g}"
        )

"""What an export wrote, and how exactly it agrees with torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Form = Literal["step", "sequence"]


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
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        bytes: Its size.
        form: "step" or "sequence".
        opset: The version of its operators.
        nodes: How many nodes its main graph has.
        functions: The names of its local functions.
        exactness: "exact" or "tolerance".
        reason: Why it is not exact; empty when it is.
        agreement: The comparison with torch.
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

    def __str__(self) -> str:
        """A few lines for people."""
        compared = self.agreement
        known = f"{self.exactness} ({self.reason})" if self.reason else self.exactness
        return (
            f"{self.path}: {self.bytes:,} bytes, opset {self.opset}, {self.form} form\n"
            f"  {self.nodes} nodes; functions: {', '.join(self.functions) or 'none'}\n"
            f"  arithmetic: {known}\n"
            f"  onnxruntime against torch, {compared.steps} steps: {compared.moved} of "
            f"{compared.spikes:,} spikes moved, largest difference {compared.difference:.3g}"
        )

"""The options of multi-precision neurons."""

from dataclasses import dataclass

from snncompile.errors import InputError


@dataclass(frozen=True)
class Options:
    """What the neurons are to be.

    Attributes:
        steps: How many steps have a decay and a threshold of their own.
        decay: Where decays start, between 0 and 1.
        threshold: Where thresholds start, between 0 and 1.
        online: No gradient passes from a step to the one before.
        bits: What is emitted has this many bits; None is as many as the floating point has.
        norm: A BatchNorm of the membrane, one a step.
        stateless: The share of neuron layers without a membrane, 0 to 1.
        attention: Gate the channels of convolutional currents.
        random_step: Train on one step drawn at random, after which none runs.
    """

    steps: int = 1
    decay: float = 0.5
    threshold: float = 0.5
    online: bool = True
    bits: int | None = None
    norm: bool = False
    stateless: float = 0.0
    attention: bool = False
    random_step: bool = False

    def __post_init__(self) -> None:
        """Check them; raises InputError."""
        if not (0 < self.decay < 1 and 0 < self.threshold < 1 and 0 <= self.stateless <= 1):
            raise InputError(
                f"decay={self.decay:g} and threshold={self.threshold:g} must lie between 0 and 1, "
                f"stateless={self.stateless:g} must not lie outside"
            )
        if self.steps < 1 or (self.bits is not None and self.bits < 1):
            raise InputError(f"steps={self.steps} and bits={self.bits} must be at least 1")

"""What `snncompile.bench` found: how long, and in how much memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from snncompile.bench.measure import Time
from snncompile.verify.report import Report

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Duration:
    """How long both take for one thing.

    Attributes:
        what: A forward pass without gradients, or a forward and a backward pass.
        threads: How many threads torch could use.
        model: The model's time.
        transformed: That of its transformed self.
    """

    what: Literal["forward", "training step"]
    threads: int
    model: Time
    transformed: Time

    @property
    def speedup(self) -> float:
        """How many times faster the transformed network is, by the wall clock."""
        return self.model.wall / self.transformed.wall


@dataclass(frozen=True)
class Memory:
    """What a training step of both takes, in bytes.

    Attributes:
        what: What autograd keeps from the forward pass for the backward pass, without parameters
            and inputs; or the most that is alive at once, beyond what is alive before.
        model: The model's.
        transformed: That of its transformed self.
    """

    what: Literal["kept for backward", "peak"]
    model: int
    transformed: int

    @property
    def saving(self) -> float:
        """How many times less the transformed network takes."""
        return self.model / self.transformed if self.transformed else float("inf")


@dataclass(frozen=True)
class Comparison:
    """A model and its transformed self, verified and measured.

    Attributes:
        report: What `snncompile.verify` says of the two.
        durations: Forward passes and training steps, by number of threads.
        memory: Of a training step.
        repeats: How many calls the medians are of.
    """

    report: Report
    durations: tuple[Duration, ...] = ()
    memory: tuple[Memory, ...] = ()
    repeats: int = 0

    @property
    def measured(self) -> bool:
        """Whether the two were found to agree (or to differ by rounding only) and measured."""
        return bool(self.durations)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain data, for JSON."""
        return {
            "verified": self.report.as_dict(),
            "repeats": self.repeats,
            "durations": [{**asdict(d), "speedup": d.speedup} for d in self.durations],
            "memory": [{**asdict(m), "saving": m.saving} for m in self.memory],
        }

    def __str__(self) -> str:
        verdict, *details = str(self.report).splitlines()
        if not self.measured:
            return "\n".join((verdict, *details, "not measured: the two do not agree"))
        return "\n".join((verdict, *self._lines()))

    def _lines(self) -> Iterator[str]:
        header = f"medians of {self.repeats} calls"
        yield f"{header:<32}{'model':>12}{'transformed':>14}"
        for d in self.durations:
            name = f"{d.what}, {d.threads} thread{'s' if d.threads > 1 else ''}"
            model, own = (f"{1000 * time.wall:.3g} ms" for time in (d.model, d.transformed))
            yield f"{name:<32}{model:>12}{own:>14}{d.speedup:>8.2f}x faster"
        for m in self.memory:
            model, own = (f"{size / MEBIBYTE:.3g} MiB" for size in (m.model, m.transformed))
            yield f"{m.what:<32}{model:>12}{own:>14}{m.saving:>8.2f}x less"

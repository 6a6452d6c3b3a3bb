"""Which networks are trained by several processes, and how."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from snncompile.runtime.schedule import ScheduleName


@dataclass(frozen=True)
class Case:
    """A network in several processes.

    Attributes:
        network: Which of `tests.distributed.networks`.
        passes: What rewrites it.
        schedule: How it runs.
        wrapped: By what: DistributedDataParallel, or `fully_shard` of the whole, of its blocks or
            of its layers first.
    """

    network: str
    passes: tuple[str, ...]
    schedule: ScheduleName
    wrapped: Literal["ddp", "whole", "blocks", "layers"] = "ddp"

    @property
    def name(self) -> str:
        return "-".join((self.network, *self.passes, self.schedule, self.wrapped))


SCHEDULES: tuple[ScheduleName, ...] = ("layers", "steps")
PASSES: tuple[tuple[str, ...], ...] = ((), ("saf",), ("binarize",))

DATA_PARALLEL = [
    *(Case(*chosen) for chosen in product(("plain", "spikingjelly"), PASSES, SCHEDULES)),
    *(Case("parametrized", (), schedule) for schedule in SCHEDULES),
]
SHARDED = [
    *(Case("plain", (), schedule, "whole") for schedule in SCHEDULES),
    *(Case("plain", (), schedule, "blocks") for schedule in SCHEDULES),
    *(Case("plain", passes, "layers", "layers") for passes in PASSES),
    Case("spikingjelly", (), "layers", "layers"),
    Case("spikingjelly", ("binarize",), "steps", "layers"),
    Case("parametrized", (), "layers", "layers"),
]

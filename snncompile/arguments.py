"""From the options of a command to the arguments of the verb behind it."""

from typing import Literal, cast

from torch import Tensor, nn

from snncompile import api
from snncompile.errors import InputError
from snncompile.loading import Example
from snncompile.module import Transformed
from snncompile.runtime.schedule import ScheduleName


def transformed(
    model: nn.Module, inputs: Tensor, example: Example, passes: list[str] | None, schedule: str
) -> Transformed:
    """A model rewritten as the options say, captured on the inputs.

    Raises:
        InputError: The schedule is none, or the model does not read the inputs' time axis.
    """
    found = api.transform(
        model,
        passes or [],
        example_inputs=inputs,
        time_steps=example.captured_steps,
        schedule=_schedule(schedule),
    )
    example.check_steps(found.program.time)
    return found


def accepted_batch(batch: str) -> int | Literal["dynamic"]:
    """The batch that an exported file accepts.

    Raises:
        InputError: It is neither a number nor "dynamic".
    """
    if batch == "dynamic":
        return "dynamic"
    if not batch.isdecimal() or int(batch) == 0:
        raise InputError(f"--batch is {batch!r}; give a number of samples, or dynamic")
    return int(batch)


def _schedule(schedule: str) -> ScheduleName | int:
    return int(schedule) if schedule.isdecimal() else cast("ScheduleName", schedule)

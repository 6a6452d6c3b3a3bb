"""Networks of the libraries, captured and run: equal to what the libraries compute."""

# pyright: basic

from typing import Literal

import pytest
import torch

from snncompile.module import Transformed
from snncompile.runtime.schedule import ScheduleName
from snncompile.verify import verify
from snncompile.verify.report import Report
from tests.models import CASES, LARGE, Case

OTHER: dict[ScheduleName, ScheduleName] = {"steps": "layers", "layers": "steps"}


def compare(
    case: Case,
    schedule: ScheduleName | int,
    *,
    train: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Report:
    """Verify the captured network under a schedule, captured with one batch, run with another."""
    model = case.model(train=train, dtype=dtype)
    fast = Transformed(model, (), schedule, None)
    fast.program_for(case.input(2, dtype))
    report = verify(model, fast, case.input(dtype=dtype))
    assert len(fast._compiled) == 1, "another batch size must not need another capture"
    return report


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_under_its_own_schedule_a_network_is_bit_equal(case: Case, train: bool) -> None:
    report = compare(case, case.native, train=train)

    assert report.ok, str(report)
    assert all(output.equal for output in report.outputs), str(report)
    assert report.moved == 0
    assert all(neuron.membrane == 0.0 for neuron in report.neurons)
    assert any(0.02 < neuron.rate < 0.98 for neuron in report.neurons), str(report)


ANOTHER = [
    (case, train, schedule)
    for case in CASES
    for train in (False, True)
    for schedule in ("other", 2)
    if (case.name == "MNISTNet" or not train) and not (case.name in LARGE and schedule == 2)
] + [(case, True, "other") for case in CASES if case.name == "spiking_resnet18"]


@pytest.mark.parametrize(
    ("case", "train", "schedule"), ANOTHER, ids=lambda value: getattr(value, "name", None)
)
def test_under_another_schedule_spikes_move_only_at_the_threshold(
    case: Case, train: bool, schedule: Literal["other"] | int
) -> None:
    chosen = OTHER[case.native] if schedule == "other" else schedule

    report = compare(case, chosen, train=train)

    assert report.explained, str(report)
    if report.moved == 0:
        assert report.ok, str(report)


IN_DOUBLE = [(case, "layers") for case in CASES] + [
    (c, "steps") for c in CASES if c.name not in LARGE
]


@pytest.mark.parametrize(
    ("case", "schedule"), IN_DOUBLE, ids=lambda value: getattr(value, "name", None)
)
def test_in_double_precision_gradients_agree_to_1e_12(case: Case, schedule: ScheduleName) -> None:
    report = compare(case, schedule, dtype=torch.float64)

    assert report.ok, str(report)
    assert max(gradient.error for gradient in report.gradients) <= 1e-12

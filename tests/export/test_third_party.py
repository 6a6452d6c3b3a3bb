"""Networks of the libraries as ONNX files: the spikes of torch, in both forms."""

# pyright: basic

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from snncompile.api import export
from snncompile.module import Transformed
from tests.models import CASES, Case
from tests.programs import dyadic_

ROUNDING = 1e-4
"""Of outputs that are sums over thousands of float32 terms, in another order."""

DYADIC = {"snntorch-two-layers", "snntorch-convolutional"}
"""Networks without BatchNorm and with dyadic decays: on a grid, float32 is exact."""


def _fast(case: Case) -> Transformed:
    model = case.model()
    if case.name in DYADIC:
        dyadic_(model)
    return Transformed(model, (), case.native, None)


def _input(case: Case, batch: int, steps: int) -> Tensor:
    torch.manual_seed(5)
    shape = (steps, batch, *case.shape[2:])
    if case.name in DYADIC:
        return (torch.rand(shape) < 0.5).float()
    return torch.rand(shape)


def _start(session: onnxruntime.InferenceSession, batch: int) -> dict[str, Any]:
    """Zeros for every state, at a batch size."""
    _, *states = session.get_inputs()
    return {
        s.name: np.zeros([n if isinstance(n, int) else batch for n in s.shape], np.float32)
        for s in states
    }


def _leaves(result: Any) -> list[Any]:
    return [r.numpy() for r in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnxruntime_fires_the_spikes_of_torch(case: Case, tmp_path: Path) -> None:
    fast = _fast(case)
    x = _input(case, case.shape[1], case.shape[0])

    reports = [
        export(fast, tmp_path / f"{form}.onnx", form=form, example_inputs=x)
        for form in ("sequence", "step")
    ]

    for report in reports:
        assert report.agreement.spikes > 0
        assert report.agreement.moved <= report.agreement.spikes * 1e-5
        if case.name in DYADIC:
            assert (report.agreement.moved, report.agreement.difference) == (0, 0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_other_batches_and_lengths_run_and_the_forms_agree(case: Case, tmp_path: Path) -> None:
    fast = _fast(case)
    export(fast, tmp_path / "sequence.onnx", example_inputs=_input(case, 2, 3))
    export(fast, tmp_path / "step.onnx", form="step", example_inputs=_input(case, 2, 3))
    whole, step = (
        onnxruntime.InferenceSession(tmp_path / f"{form}.onnx") for form in ("sequence", "step")
    )
    x = _input(case, 3, 5)
    name, count = whole.get_inputs()[0].name, len(fast.program.outputs)
    fast.reset()
    with torch.no_grad():
        wanted = _leaves(fast(x))

    found = whole.run(None, {name: x.numpy(), **_start(whole, 3)})[: len(wanted)]
    states, rows = list(_start(step, 3).items()), []
    for x_t in x:
        outputs = step.run(None, {name: x_t.numpy(), **dict(states)})
        rows.append(outputs[:count])
        states = [(key, value) for (key, _), value in zip(states, outputs[count:], strict=True)]

    for want, have in zip(wanted, found, strict=True):
        _agree(case, want, have)
    if fast.program.epilogue is None and fast.program.outputs[0].reduce == "stack":
        for i, want in enumerate(wanted):
            _agree(case, want, np.stack([row[i] for row in rows]))
    assert np.abs(wanted[-1]).max() > 0


MOVING = {"spiking_vgg11_bn"}
"""A spike lies within rounding of its threshold: on some processors one sample's moves."""


def _agree(case: Case, want: Any, have: Any) -> None:
    if case.name in DYADIC:
        assert np.array_equal(want, have)
        return
    batch = want.shape.index(3)
    close = np.isclose(have, want, rtol=ROUNDING, atol=ROUNDING)
    samples = close.all(tuple(axis for axis in range(want.ndim) if axis != batch))
    assert samples.sum() >= 3 - (case.name in MOVING)


def test_a_training_network_is_not_exported_and_leaves_no_file(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "MNISTNet")
    fast = Transformed(case.model(train=True), (), "layers", None)

    with pytest.raises(Exception, match="eval"):
        export(fast, tmp_path / "net.onnx", example_inputs=case.input())

    assert list(tmp_path.iterdir()) == []


def test_a_plain_model_is_captured_and_exported_at_once(tmp_path: Path) -> None:
    model: nn.Module = next(case for case in CASES if case.name == "norse-sequential").model()

    report = export(model, tmp_path / "net.onnx", example_inputs=torch.rand(4, 2, 1, 10, 10))

    assert report.path.stat().st_size == report.bytes

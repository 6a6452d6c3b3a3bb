"""Runs on fake tensors leave a model's own tensors where they are."""

# pyright: basic

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from snncompile.ir.values import fake_mode, fake_parameters


def twice() -> nn.Sequential:
    """One module under two names, and a weight that two modules share."""
    shared, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = shared.weight
    return nn.Sequential(shared, nn.BatchNorm1d(2), shared, other)


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_under_two_names_gets_its_parameters_back(fails: bool) -> None:
    model = twice()
    before = [*model.parameters(), *model.buffers()]

    with (
        pytest.raises(ZeroDivisionError) if fails else nullcontext(),
        fake_parameters(model, fake_mode()),
    ):
        assert not any(type(value) is nn.Parameter for value in model.parameters())
        assert 1 / (1 - fails)

    after = [*model.parameters(), *model.buffers()]
    assert len(after) == len(before)
    assert all(mine is own for mine, own in zip(after, before, strict=True))


def test_a_shared_weight_is_one_fake_tensor() -> None:
    model = twice()

    with fake_parameters(model, fake_mode()) as fakes, torch.no_grad():
        assert model.get_parameter("0.weight") is model.get_parameter("3.weight")
        assert model.get_parameter("0.weight") is fakes["0.weight"]

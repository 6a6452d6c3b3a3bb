"""Transformed networks trained by two processes, with torchrun and gloo."""

# pyright: basic

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.cases import DATA_PARALLEL, SHARDED, Case

ROOT = Path(__file__).parents[2]
SECONDS = 300
"""A hung process is an error, after far longer than this takes."""
TOLERANCE = 1e-9
"""Gradients of halves of the batch are averaged instead of summed, in float64."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes measured, by the case's name; the system chooses their port."""
    file = tmp_path_factory.mktemp("processes") / "measured.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(Path(__file__).with_name("worker.py")), str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )

    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("case", [*DATA_PARALLEL, *SHARDED], ids=lambda case: case.name)
def test_two_processes_train_as_one_on_the_joined_batch(
    case: Case, measured: dict[str, Any]
) -> None:
    found = measured[case.name]

    assert found["gradients"] <= TOLERANCE
    assert found["weights"] <= TOLERANCE
    assert found["moved"] > 1e-3
    assert found["spread"] == 0


@pytest.mark.parametrize("case", DATA_PARALLEL, ids=lambda case: case.name)
def test_the_original_is_trained_as_well(case: Case, measured: dict[str, Any]) -> None:
    assert all(measured[case.name]["same"])


@pytest.mark.parametrize("case", SHARDED, ids=lambda case: case.name)
def test_every_process_holds_a_part_of_the_original(case: Case, measured: dict[str, Any]) -> None:
    assert all(measured[case.name]["same"])
    assert measured[case.name]["held"] < 0.6

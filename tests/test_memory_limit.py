"""Training where memory ends: a sequence too long for SpikingJelly trains with `recompute` (Linux)."""

# pyright: basic

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "memory_limit.py"
LIMIT, STEPS = 64, 256
"""MiB; three layers of 256 neurons, batch 32: SpikingJelly keeps 12 bytes of each, 72 MiB."""


def test_a_sequence_that_runs_out_of_memory_in_spikingjelly_trains_here() -> None:
    assert _said_of("SpikingJelly") == "fails"
    assert _said_of("recompute, auto") == "trains"


def _said_of(contender: str) -> str:
    command = [sys.executable, str(SCRIPT), "--alone", contender, "--limit", str(LIMIT)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [*command, "--steps", str(STEPS)],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.stdout.split()[-1]

"""The scripts in benchmarks/ run, and README.md says what they measured; times are not tested."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script: str) -> str:
    """What a script of the benchmarks prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"benchmarks/{script}.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_table_runs_with_every_peer() -> None:
    printed = run("quick")

    for peer in ("multi-step", "single-step", "level 1", "8 chunks", "snnTorch", "Norse", "eager"):
        assert peer in printed
    for network in ("mlp", "layer", "conv", "spiking_resnet18", "tutorial"):
        assert network in printed


def test_the_readme_holds_the_table_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text()

    assert run("summary").strip() in readme

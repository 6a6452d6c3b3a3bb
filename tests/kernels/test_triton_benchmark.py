"""The benchmark for GPUs runs where there is none, in Triton's interpreter."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_a_small_version_runs_in_the_interpreter(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    options = ["--interpret", "--peers", "kernels", "eager", "--out", str(out)]

    subprocess.run([sys.executable, str(SCRIPT), *options], check=True, capture_output=True)

    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {record["case"] for record in records} == {"limits", "lif", "onm", "mem"}
    assert not [record for record in records if "error" in record]
    assert {record.get("spikes_moved", 0.0) for record in records} == {0.0}

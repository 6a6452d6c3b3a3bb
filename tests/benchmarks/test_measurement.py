"""The measuring itself, which peers with an environment of their own share."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_what_peers_without_snncompile_import_does_without_it() -> None:
    code = "import sys; sys.modules['snncompile'] = None; import measurement, records"

    run = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr

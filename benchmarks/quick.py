"""Every table on tiny sizes, in one process: do the scripts run? Nothing is written.

PYTHONPATH=. python benchmarks/quick.py
"""

import runpy
import sys
from pathlib import Path

FEW = ("--threads", "1", "--seconds", "0")
OURS = ("--only", "SpikingJelly multi-step", "snncompile layers")

SCRIPTS: dict[str, tuple[str, ...]] = {
    "mlp": (*FEW, "--steps", "2"),
    "neuron_layer": (*FEW, *OURS),
    "conv": (*FEW, *OURS),
    "networks": (*FEW, "--only", "snncompile layers"),
    "growth": FEW,
    "neuron_scan": ("--threads", "1"),
    "backward_scan": (),
    "compile_time": (),
}
"""In the first, every peer takes part but torch.compile."""


def main() -> None:
    """Run them all; the first that fails ends it."""
    for name, arguments in SCRIPTS.items():
        print(f"\n== {name}", flush=True)
        path = Path(__file__).with_name(f"{name}.py")
        sys.argv = [str(path), "--quick", *arguments]
        runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()

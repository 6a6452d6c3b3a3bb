"""Compares what the page computed with the same file in this Python's onnxruntime.

Usage: python examples/browser/check.py FOLDER, with the history.json of check.mjs
"""

# pyright: basic

import json
import sys
from pathlib import Path

import numpy as np

import snncompile

ROUNDING = 1e-5
"""Of scores, which are sums of real numbers in another order."""


def main(folder: Path) -> int:
    """Run the frames again; returns the number of steps whose spikes or scores differ."""
    net = snncompile.Deployed(folder / "net.onnx")
    steps = json.loads((folder / "history.json").read_text())
    wrong = 0
    for step in steps:
        found = net.step(np.array(step["frame"], np.float32).reshape(1, 1, 16, 16))
        wanted = [np.array(step["outputs"][name]) for name in net.outputs]
        close = np.allclose(found[0].flatten(), wanted[0], rtol=ROUNDING, atol=ROUNDING)
        equal = all(
            np.array_equal(a.flatten(), b) for a, b in zip(found[1:], wanted[1:], strict=True)
        )
        wrong += not (close and equal)
    spikes = sum(sum(step["outputs"][name]) for step in steps for name in net.outputs[1:])
    digit = int(np.argmax(steps[-1]["outputs"][net.outputs[0]]))
    print(f"{len(steps)} steps, {spikes:.0f} spikes, {wrong} steps differ; a 7 was read as {digit}")
    return wrong + (spikes == 0) + (len(steps) == 0)


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))

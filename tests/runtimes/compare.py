"""Runs exported files in the onnxruntime of its own interpreter, and compares with eager torch.

Needs onnxruntime and numpy and nothing of this project, so that it runs in an environment with an
old onnxruntime. Usage: python compare.py FOLDER, a folder that cases.py wrote
"""

# pyright: basic

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Calls = list[dict[str, Any]]


def main(folder: Path) -> int:
    """Run every file at two levels of optimization; returns how many outputs differ."""
    levels = onnxruntime.GraphOptimizationLevel
    files = sorted(folder.glob("*.onnx"))
    wrong = 0 if files else 1
    for file in files:
        calls: Calls = json.loads(file.with_suffix(".json").read_text())["calls"]
        for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
            found = differences(file, calls, level)
            wrong += len(found)
            if found:
                print(f"{file.stem} at {level} differs: {', '.join(found)}")
    print(f"onnxruntime {onnxruntime.__version__}: {len(files)} files, {wrong} differences")
    return wrong


def differences(file: Path, calls: Calls, level: Any) -> list[str]:
    """The outputs that are not those of torch, bit for bit."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    found = []
    for i, call in enumerate(calls):
        feeds = {name: _array(tensor) for name, tensor in call["inputs"].items()}
        names = list(call["outputs"])
        for name, value in zip(names, session.run(names, feeds), strict=True):
            if not np.array_equal(np.asarray(value), _array(call["outputs"][name])):
                found.append(f"call {i}: {name}")
    return found


def _array(tensor: dict[str, Any]) -> Any:
    return np.array(tensor["data"], np.float32).reshape(tensor["dims"])


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))

"""Writes exported files, inputs for them and what eager torch computes, for other runtimes.

Usage: python -m tests.runtimes.cases FOLDER
"""

# pyright: basic

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snncompile.export import export_program
from tests.export.quantised_networks import NETWORKS, Network, deep, wide
from tests.export.runtimes import spikes, states

STEPS, BATCH = 6, 3
FORMS: tuple[Any, ...] = ("step", "sequence", "unrolled")
KINDS: tuple[Any, ...] = ("binary", "ternary")


def main(folder: Path) -> None:
    """Write a file and its calls for every network, encoding and form."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        for kind in KINDS:
            for form in FORMS:
                settings = {"weights": kind, "form": form}
                _write(folder / f"{name}-{kind}-{form}", make(kind), settings)
    for kind in KINDS:
        settings = {"weights": kind, "form": "step", "target": "x86-int8"}
        _write(folder / f"wide-{kind}-integers", wide(kind), settings)
        convolution = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        _write(folder / f"deep-{kind}-integers", deep(kind, convolution, 64, 7, 6), settings)


def _write(path: Path, network: Network, settings: Any) -> None:
    shape = network.program.placeholders()[0].meta["val"].shape[1:]
    x = spikes(STEPS, BATCH, *shape)
    held = [torch.zeros_like(value) for value in states(network.program, BATCH)]
    export_program(network.program, path.with_suffix(".onnx"), check=(x,), **settings)
    calls = _steps(network, x, held) if settings["form"] == "step" else [_whole(network, x, held)]
    path.with_suffix(".json").write_text(json.dumps({"calls": calls}))


def _steps(network: Network, x: Tensor, held: list[Tensor]) -> list[Any]:
    calls = []
    for x_t in x:
        outputs, after = network.run(x_t[None], held)
        calls.append(_call(network, x_t, held, outputs[0], after))
        held = after
    return calls


def _whole(network: Network, x: Tensor, held: list[Tensor]) -> Any:
    outputs, after = network.run(x, held)
    return _call(network, x, held, torch.stack(outputs), after)


def _call(
    network: Network, x: Tensor, held: list[Tensor], output: Tensor, after: list[Tensor]
) -> Any:
    labels = [state.label.replace(".", "_") for state in network.program.states]
    return {
        "inputs": {"x": _tensor(x), **dict(zip(labels, map(_tensor, held), strict=True))},
        "outputs": {
            "out0": _tensor(output),
            **{f"{label}_next": _tensor(v) for label, v in zip(labels, after, strict=True)},
        },
    }


def _tensor(value: Tensor) -> Any:
    return {"dims": list(value.shape), "data": value.detach().flatten().tolist()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

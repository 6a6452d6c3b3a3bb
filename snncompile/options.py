"""The options that commands of the command line share."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from snncompile.loading import Layout

Model: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="package.module:callable or path/file.py:callable; the callable is a torch.nn.Module "
        "or, called without arguments, returns one.",
    ),
]
Input: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="SHAPE|FILE", help="One sample of one step, as 1x28x28; or a .npy file."
    ),
]
Steps: TypeAlias = Annotated[
    int | None,
    typer.Option("--time-steps", min=1, help="Steps of the input, or of a model of one step."),
]
Batch: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Samples in the random input; 2 if not given.")
]
Over: TypeAlias = Annotated[
    Layout | None,
    typer.Option(
        "--layout",
        help="sequence is (T, N, ...), the default with --time-steps; static is (N, ...), fed "
        "at every step; batch-first is (N, T, ...).",
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Of the random input.")]
StateDict: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state-dict",
        metavar="FILE",
        help='The model\'s trained state dict, or {"state_dict": ...}; loaded with '
        "weights_only=True.",
    ),
]
Train: TypeAlias = Annotated[bool, typer.Option("--train/--eval", help="The model's mode.")]
Passes: TypeAlias = Annotated[
    list[str] | None, typer.Option("--pass", help="A pass; repeat it for more, in order.")
]
Schedule: TypeAlias = Annotated[
    str, typer.Option(help="auto, steps, layers, or how many steps at a time.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Weights: TypeAlias = Annotated[
    Literal["float32", "int8", "ternary", "binary"],
    typer.Option(help="How the file stores weights: 32, 8, 2 bits or 1 bit each."),
]
Form: TypeAlias = Annotated[
    Literal["step", "sequence", "unrolled"],
    typer.Option(
        help="One step with states in and out, whole sequences, or sequences of a fixed length "
        "without control flow."
    ),
]
Target: TypeAlias = Annotated[
    Literal["any", "x86-int8"],
    typer.Option(help="Where the file will run; x86-int8 adds up in integers."),
]

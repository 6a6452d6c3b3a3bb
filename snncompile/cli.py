"""The command line: each command calls one public function and prints what it returns.

What a command finds goes to stdout, progress and errors go to stderr.
"""

import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, astuple
from functools import wraps
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from snncompile import api
from snncompile.errors import InputError, SnncompileError
from snncompile.ir.text import text
from snncompile.loading import Example, Network
from snncompile.module import Transformed
from snncompile.options import (
    AsJson,
    Batch,
    Input,
    Model,
    Over,
    Passes,
    Schedule,
    Seed,
    Steps,
    Train,
    Weights,
)
from snncompile.passes import PASSES
from snncompile.runtime.schedule import ScheduleName
from snncompile.summary import layers_of

DIFFERS = 1
REFUSED = 2
EXIT_CODES = (
    "Exit codes: 0 ok; 1 the verification found differences; 2 bad input, or the compiler "
    "refuses, with one message on stderr."
)
COLUMNS = ("name", "layer", "parameters", "output", "state bytes per sample")

_Arguments = ParamSpec("_Arguments")

app = typer.Typer(
    help="A compiler for spiking neural networks: capture, rewrite, verify, export.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app()


def _command(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Register a command; what the compiler refuses becomes a message and an exit code."""

    @wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except SnncompileError as error:
            message = "\n".join([f"error: {error}", *getattr(error, "__notes__", ())])
            print(message, file=sys.stderr)
            raise typer.Exit(REFUSED) from error

    return app.command(epilog=EXIT_CODES)(run)


# Commands -----------------------------------------------------------------------------------------


@_command
def inspect(  # noqa: PLR0913
    model: Model,
    *,
    input: Input = None,  # noqa: A002
    time_steps: Steps = None,
    batch: Batch = None,
    layout: Over = None,
    seed: Seed = 0,
    weights: Weights = None,
    train: Train = False,
    as_json: AsJson = False,
) -> None:
    """Print a model's program and, layer by layer, parameters, shapes and memory of state."""
    network = Network(model, weights, train)
    example = Example(input, time_steps, batch, layout, seed)
    with _working("capturing"):
        program = api.capture(network.load(), example.load(), time_steps=example.captured_steps)
        example.check_steps(program.time)
        listing, layers = text(program), layers_of(program)
    if as_json:
        _print_json({"text": listing, "layers": [asdict(layer) for layer in layers]})
        return
    print(listing)
    print()
    _print_table(COLUMNS, (astuple(layer) for layer in layers))


@_command
def transform(  # noqa: PLR0913
    model: Model,
    *,
    passes: Passes = None,
    input: Input = None,  # noqa: A002
    time_steps: Steps = None,
    batch: Batch = None,
    layout: Over = None,
    seed: Seed = 0,
    weights: Weights = None,
    train: Train = False,
    schedule: Schedule = "auto",
    save: Annotated[
        Path | None, typer.Option(help="Write before.txt and after.txt into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite a model by passes and print its program before and after."""
    network = Network(model, weights, train)
    example = Example(input, time_steps, batch, layout, seed)
    with _working("capturing and rewriting"):
        loaded, inputs = network.load(), example.load()
        before = api.capture(loaded, inputs, time_steps=example.captured_steps)
        transformed = _transformed(loaded, inputs, example, passes, schedule)
        texts = {"before": text(before), "after": text(transformed.program)}
    if save is not None:
        for name, content in texts.items():
            _write(save / f"{name}.txt", content + "\n")
    if as_json:
        _print_json(texts)
        return
    print("\n\n".join(f"{name}:\n{content}" for name, content in texts.items()))


@_command
def verify(  # noqa: PLR0913
    model: Model,
    *,
    passes: Passes = None,
    input: Input = None,  # noqa: A002
    time_steps: Steps = None,
    batch: Batch = None,
    layout: Over = None,
    seed: Seed = 0,
    weights: Weights = None,
    train: Train = False,
    schedule: Schedule = "auto",
    gradients: Annotated[bool, typer.Option(help="Compare gradients as well.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compare a model with its transformed self: outputs, every neuron's spikes, gradients."""
    network = Network(model, weights, train)
    example = Example(input, time_steps, batch, layout, seed)
    with _working("transforming and comparing"):
        loaded, inputs = network.load(), example.load()
        transformed = _transformed(loaded, inputs, example, passes, schedule)
        report = api.verify(loaded, transformed, inputs, gradients=gradients)
    silent = [neuron.name for neuron in report.neurons if neuron.rate == 0]
    if silent:
        print(f"note: never fired on this input: {', '.join(silent)}", file=sys.stderr)
    if as_json:
        _print_json(report.as_dict())
    else:
        print(report)
    if not report.ok:
        if not as_json:
            print(f"explained by rounding: {'yes' if report.explained else 'no'}")
        raise typer.Exit(DIFFERS)


@_command
def export(  # noqa: PLR0913
    model: Model,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file.")],
    passes: Passes = None,
    input: Input = None,  # noqa: A002
    time_steps: Steps = None,
    batch: Annotated[
        str, typer.Option(metavar="N|dynamic", help="The batch that the file accepts.")
    ] = "dynamic",
    layout: Over = None,
    seed: Seed = 0,
    weights: Weights = None,
    form: Annotated[
        Literal["step", "sequence"],
        typer.Option(help="One step with states in and out, or whole sequences."),
    ] = "sequence",
    opset: Annotated[int, typer.Option(help="The ONNX operator set.")] = 18,
    as_json: AsJson = False,
) -> None:
    """Write a model as an ONNX file that onnxruntime has been seen to agree with."""
    accepted = _accepted_batch(batch)
    samples = accepted if isinstance(accepted, int) else None
    network, example = Network(model, weights), Example(input, time_steps, samples, layout, seed)
    with _working("capturing and exporting"):
        inputs = example.load()
        transformed = _transformed(network.load(), inputs, example, passes, "auto")
        report = api.export(
            transformed, output, example_inputs=inputs, form=form, batch=accepted, opset=opset
        )
    if as_json:
        _print_json(asdict(report))
    else:
        print(report)


@_command
def passes(*, as_json: AsJson = False) -> None:
    """List the passes: name, what each keeps, what it does."""
    rows = [(item.name, item.keeps, (getdoc(item) or "").partition("\n")[0]) for item in PASSES]
    columns = ("name", "keeps", "summary")
    if as_json:
        _print_json({"passes": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        _print_table(columns, rows)


# Between options and the compiler -----------------------------------------------------------------


def _transformed(
    model: nn.Module, inputs: Tensor, example: Example, passes: list[str] | None, schedule: str
) -> Transformed:
    transformed = api.transform(
        model,
        passes or [],
        example_inputs=inputs,
        time_steps=example.captured_steps,
        schedule=_schedule(schedule),
    )
    example.check_steps(transformed.program.time)
    return transformed


def _schedule(schedule: str) -> ScheduleName | int:
    return int(schedule) if schedule.isdecimal() else cast("ScheduleName", schedule)


def _accepted_batch(batch: str) -> int | Literal["dynamic"]:
    if batch == "dynamic":
        return "dynamic"
    if not batch.isdecimal() or int(batch) == 0:
        raise InputError(f"--batch is {batch!r}; give a number of samples, or dynamic")
    return int(batch)


# Output -------------------------------------------------------------------------------------------


@contextmanager
def _working(doing: str) -> Generator[None]:
    """Show progress; what a model prints meanwhile goes to stderr, where it spoils no result."""
    with redirect_stdout(sys.stderr), Console(stderr=True).status(doing):
        yield


def _print_json(data: Mapping[str, object]) -> None:
    print(json.dumps(data, default=str))


def _print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    Console().print(table)


def _write(path: Path, content: str) -> None:
    """Put a whole file in place or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"cannot write {path}: {error.strerror}") from error

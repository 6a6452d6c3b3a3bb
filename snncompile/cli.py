"""The command line: each command calls one public function and prints what it returns.

What a command finds goes to stdout, progress and errors go to stderr.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, astuple
from functools import wraps
from inspect import getdoc
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from snncompile import api
from snncompile.arguments import accepted_batch, transformed
from snncompile.deployed import Deployed
from snncompile.errors import SnncompileError
from snncompile.ir.text import text
from snncompile.latency import latency
from snncompile.loading import Example, Network, array_from
from snncompile.options import (
    AsJson,
    Batch,
    Form,
    Input,
    Model,
    Over,
    Passes,
    Schedule,
    Seed,
    StateDict,
    Steps,
    Target,
    Train,
    Weights,
)
from snncompile.passes import PASSES
from snncompile.summary import layers_of
from snncompile.terminal import beginning, print_json, print_table, save, working, write

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
    state_dict: StateDict = None,
    train: Train = False,
    as_json: AsJson = False,
) -> None:
    """Print a model's program and, layer by layer, parameters, shapes and memory of state."""
    network = Network(model, state_dict, train)
    example = Example(input, time_steps, batch, layout, seed)
    with working("capturing"):
        program = api.capture(network.load(), example.load(), time_steps=example.captured_steps)
        example.check_steps(program.time)
        listing, layers = text(program), layers_of(program)
    if as_json:
        print_json({"text": listing, "layers": [asdict(layer) for layer in layers]})
        return
    print(listing)
    print()
    print_table(COLUMNS, (astuple(layer) for layer in layers))


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
    state_dict: StateDict = None,
    train: Train = False,
    schedule: Schedule = "auto",
    save: Annotated[
        Path | None, typer.Option(help="Write before.txt and after.txt into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite a model by passes and print its program before and after."""
    network = Network(model, state_dict, train)
    example = Example(input, time_steps, batch, layout, seed)
    with working("capturing and rewriting"):
        loaded, inputs = network.load(), example.load()
        before = api.capture(loaded, inputs, time_steps=example.captured_steps)
        rewritten = transformed(loaded, inputs, example, passes, schedule)
        texts = {"before": text(before), "after": text(rewritten.program)}
    if save is not None:
        for name, content in texts.items():
            write(save / f"{name}.txt", content + "\n")
    if as_json:
        print_json(texts)
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
    state_dict: StateDict = None,
    train: Train = False,
    schedule: Schedule = "auto",
    gradients: Annotated[bool, typer.Option(help="Compare gradients as well.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compare a model with its transformed self: outputs, every neuron's spikes, gradients."""
    network = Network(model, state_dict, train)
    example = Example(input, time_steps, batch, layout, seed)
    with working("transforming and comparing"):
        loaded, inputs = network.load(), example.load()
        rewritten = transformed(loaded, inputs, example, passes, schedule)
        report = api.verify(loaded, rewritten, inputs, gradients=gradients)
    silent = [neuron.name for neuron in report.neurons if neuron.rate == 0]
    if silent:
        print(f"note: never fired on this input: {', '.join(silent)}", file=sys.stderr)
    if as_json:
        print_json(report.as_dict())
    else:
        print(report)
    if not report.ok:
        if not as_json:
            print(f"explained by rounding: {'yes' if report.explained else 'no'}")
        raise typer.Exit(DIFFERS)


@_command
def bench(  # noqa: PLR0913
    model: Model,
    *,
    passes: Passes = None,
    input: Input = None,  # noqa: A002
    time_steps: Steps = None,
    batch: Batch = None,
    layout: Over = None,
    seed: Seed = 0,
    state_dict: StateDict = None,
    train: Train = False,
    schedule: Schedule = "auto",
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Of torch; repeat it for more. 1 and all if not given."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each call is timed.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Measure a model against its transformed self: time and memory, once they agree."""
    network = Network(model, state_dict, train)
    example = Example(input, time_steps, batch, layout, seed)
    with working("transforming, verifying and measuring"):
        loaded, inputs = network.load(), example.load()
        rewritten = transformed(loaded, inputs, example, passes, schedule)
        found = api.bench(loaded, rewritten, inputs, threads=threads, repeats=repeats)
    if as_json:
        print_json(found.as_dict())
    else:
        print(found)
    if not found.measured:
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
    state_dict: StateDict = None,
    weights: Weights = "float32",
    form: Form = "sequence",
    target: Target = "any",
    opset: Annotated[int, typer.Option(help="The ONNX operator set.")] = 18,
    as_json: AsJson = False,
) -> None:
    """Write a model as an ONNX file that onnxruntime has been seen to agree with."""
    accepted = accepted_batch(batch)
    samples = accepted if isinstance(accepted, int) else None
    network, example = Network(model, state_dict), Example(input, time_steps, samples, layout, seed)
    with working("capturing and exporting"):
        inputs = example.load()
        rewritten = transformed(network.load(), inputs, example, passes, "auto")
        report = api.export(
            rewritten, output, example_inputs=inputs, weights=weights, form=form,
            target=target, batch=accepted, opset=opset,
        )  # fmt: skip
        speed = latency(output)
    if as_json:
        print_json({**asdict(report), "speed": asdict(speed)})
    else:
        print(f"{report}\n  {speed}")


@_command
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="A .npy file for every input.")
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="An .npz file for the outputs, each by its name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an exported file on a sequence with onnxruntime, its states starting afresh."""
    with working("running"):
        net = Deployed(file)
        results = net.run(*(array_from(path) for path in inputs))
    arrays = [results] if len(net.outputs) == 1 else list(results)
    named = dict(zip(net.outputs, arrays, strict=True))
    if output is not None:
        save(output, named)
    if as_json:
        print_json({"outputs": {name: array.tolist() for name, array in named.items()}})
    else:
        rows = ((n, list(a.shape), f"{a.mean():.6g}", beginning(a)) for n, a in named.items())
        print_table(("output", "shape", "mean", "values"), rows)


@_command
def passes(*, as_json: AsJson = False) -> None:
    """List the passes: name, what each keeps, what it does."""
    rows = [(item.name, item.keeps, (getdoc(item) or "").partition("\n")[0]) for item in PASSES]
    columns = ("name", "keeps", "summary")
    if as_json:
        print_json({"passes": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        print_table(columns, rows)

"""What the command line shows and writes: results on stdout, progress on stderr, whole files."""

import json
import os
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from snncompile.errors import InputError
from snncompile.onnx_file import Array

_SHOWN = 10
"""How many values of an array are shown."""


@contextmanager
def working(doing: str) -> Generator[None]:
    """Show progress; what a model prints meanwhile goes to stderr, where it spoils no result."""
    with redirect_stdout(sys.stderr), Console(stderr=True).status(doing):
        yield


def print_json(data: Mapping[str, object]) -> None:
    """Print one object."""
    print(json.dumps(data, default=str))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows under their columns."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    Console().print(table)


def beginning(array: Array) -> str:
    """The first values of an array."""
    shown = " ".join(f"{value:.4g}" for value in array.flat[:_SHOWN])
    return f"{shown} ..." if array.size > _SHOWN else shown


def save(path: Path, named: Mapping[str, Array]) -> None:
    """Write arrays by name as an .npz file.

    Raises:
        InputError: It cannot be written.
    """
    content = BytesIO()
    np.savez(content, allow_pickle=False, **named)
    write(path, content.getvalue())


def write(path: Path, content: str | bytes) -> None:
    """Put a whole file in place or none.

    Raises:
        InputError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"cannot write {path}: {error.strerror}") from error

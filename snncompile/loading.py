"""From what a person types to what the compiler takes: a model by its name, weights, inputs."""

import importlib
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pickle import UnpicklingError
from traceback import extract_tb
from types import ModuleType
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snncompile.errors import InputError

BATCH = 2
"""Samples in a random input when nobody says how many."""

_Unmatched: TypeAlias = tuple[list[str], list[str]]
"""Keys that a checkpoint lacks, and those it has too many."""

_NAMED = 3
"""How many names an error lists of what may be hundreds."""


Layout: TypeAlias = Literal["sequence", "static", "batch-first"]
"""How a model takes its input over time: [T, N, ...], [N, ...] at every step, or [N, T, ...]."""


@dataclass(frozen=True)
class Network:
    """A model as a person names it.

    Attributes:
        name: ``package.module:callable`` or ``path/file.py:callable``.
        state_dict: A checkpoint to load into it.
        training: In training mode instead of evaluation mode.
    """

    name: str
    state_dict: Path | None = None
    training: bool = False

    def load(self) -> nn.Module:
        """Import or build the model and give it its weights and its mode.

        Raises:
            InputError: The name leads to no model, or the weights do not fit.
        """
        model = _model(self.name)
        if self.state_dict is not None:
            _load_weights(model, self.state_dict)
        return model.train(self.training)


@dataclass(frozen=True)
class Example:
    """An input as a person describes it.

    Attributes:
        described: The shape of one sample of one step such as ``1x28x28``, or a .npy file.
        time_steps: How many steps.
        batch: How many samples; `BATCH` if None.
        layout: Where a random input has its time axis; [T, N, ...] if None and there are steps.
        seed: Of the random input.
    """

    described: str | None
    time_steps: int | None = None
    batch: int | None = None
    layout: Layout | None = None
    seed: int = 0

    @property
    def captured_steps(self) -> int | None:
        """What capture is told: no number where the model itself reads it off a later axis."""
        return None if self.layout == "batch-first" else self.time_steps

    def load(self) -> Tensor:
        """The input: a file as it is, or numbers in [0, 1), like the intensities of an image.

        Returns:
            [T, N, ...], [N, T, ...] or [N, ...] by the layout.

        Raises:
            InputError: There is no such file, or the description contradicts itself.
        """
        if self.described is None:
            raise InputError(
                "the model's input is not known; give the shape of one sample, as in "
                "--input 1x28x28, or a file, as in --input digits.npy"
            )
        if self.described.endswith(".npy"):
            return self._from_file(Path(self.described))
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self._shape(_sizes(self.described)), generator=generator)

    def check_steps(self, steps: int | None) -> None:
        """Refuse a model of one step that was given [N, T, ...] as if that were one sample.

        Args:
            steps: How many steps the captured program runs; None for those of its input.

        Raises:
            InputError: The model does not read the time axis.
        """
        if self.layout == "batch-first" and steps == 1 and self.time_steps != 1:
            raise InputError(
                f"the model is one step and does not read the {self.time_steps} steps of a "
                "batch-first input; use --layout sequence"
            )

    def _from_file(self, path: Path) -> Tensor:
        if self.batch is not None:
            raise InputError(f"--batch does not go with {path}: a file is used as it is")
        try:
            return torch.from_numpy(array_from(path))  # pyright: ignore[reportUnknownMemberType]
        except TypeError as error:
            raise InputError(f"cannot read {path} as a tensor: {_sentence(error)}") from error

    def _shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        batch = BATCH if self.batch is None else self.batch
        if self.time_steps is None:
            if self.layout not in {None, "static"}:
                raise InputError(f"--layout {self.layout} needs --time-steps")
            return (batch, *sample)
        if self.layout == "static":
            return (batch, *sample)
        if self.layout == "batch-first":
            return (batch, self.time_steps, *sample)
        return (self.time_steps, batch, *sample)


def array_from(path: Path) -> NDArray[Any]:
    """The array in a .npy file; nothing of it is run.

    Raises:
        InputError: There is no such file, or it holds something else.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path} as an array: {_sentence(error)}") from error
    return array


def _sizes(described: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", described):
        raise InputError(
            f"{described!r} is no input: give the shape of one sample with an x between its "
            "sizes, as in 1x28x28, or a file that ends in .npy"
        )
    return tuple(int(size) for size in described.split("x"))


# Models -------------------------------------------------------------------------------------------


def _model(name: str) -> nn.Module:
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise InputError(
            f"{name!r} does not name a model; write package.module:callable or "
            "path/file.py:callable"
        )
    file = Path(where) if where.endswith(".py") else None
    if file is not None and not file.is_file():
        raise InputError(f"there is no file {where}")
    with _importable(file.parent if file else Path()):
        with _users_code(f"importing {where}"):
            module = _import_file(file) if file else importlib.import_module(where)
        found = _attribute(module, where, attribute)
        if not isinstance(found, nn.Module) and callable(found):
            with _users_code(f"calling {name}"):
                found = found()
    if not isinstance(found, nn.Module):
        raise InputError(f"{name} is of type {type(found).__name__}, not a torch.nn.Module")
    return found


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    """Let modules of a folder be imported while the context lasts."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _import_file(file: Path) -> ModuleType:
    """Import a file under a name that no other module has."""
    spec = spec_from_file_location(f"_model_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be imported")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, where: str, name: str) -> object:
    if hasattr(module, name):
        return cast("object", getattr(module, name))
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    raise InputError(f"{where} has no {name!r}; it has {_names(own) or 'nothing to call'}")


@contextmanager
def _users_code(doing: str) -> Generator[None]:
    """Whatever a model's own code raises becomes one sentence with the line that raised it."""
    try:
        yield
    except Exception as error:
        frames = [
            frame
            for frame in extract_tb(error.__traceback__)
            if frame.filename not in {__file__, importlib.__file__} and frame.filename[0] != "<"
        ]
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        raise InputError(f"{doing} failed{place}: {type(error).__name__}: {error}") from error


# Weights ------------------------------------------------------------------------------------------


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        stored: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"cannot load weights from {path}: {_sentence(error)}") from error
    if isinstance(stored, Mapping) and "state_dict" in stored:
        stored = cast("Mapping[str, object]", stored)["state_dict"]
    if not isinstance(stored, Mapping):
        raise InputError(f"{path} holds a {type(stored).__name__}, not a state dict")
    state = cast("Mapping[str, Tensor]", stored)
    try:
        unmatched = cast("_Unmatched", model.load_state_dict(state, strict=False))
    except (RuntimeError, TypeError, AttributeError) as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [_sentence(error)]
        raise InputError(f"the weights in {path} do not fit the model: {reasons[0]}") from error
    missing, unexpected = unmatched
    if missing or unexpected:
        raise InputError(
            f"the weights in {path} do not fit the model: "
            f"missing {_names(missing) or 'none'}; "
            f"unexpected {_names(unexpected) or 'none'}"
        )


# Words of errors ----------------------------------------------------------------------------------


def _names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _sentence(error: Exception) -> str:
    """The first sentence of an error of another library."""
    text = str(error) or type(error).__name__
    return re.split(r"\.\s|\n", text, maxsplit=1)[0]

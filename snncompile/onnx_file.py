# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
"""An exported file as onnxruntime loads it, and what it says about itself.

Metadata says which inputs are states, what they are before the first step, and what the outputs of
the steps become over time. Nothing here needs torch or the model, and nothing of a file is run but
its ONNX graph.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from snncompile.errors import InputError

Array: TypeAlias = NDArray[Any]

AFTER = "after the steps"
"""The metadata of a file whose model computes more after its steps."""

_TYPES = {
    "tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
    "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """An input or an output of a file.

    Attributes:
        name: In the file.
        shape: Sizes; "N" is the batch, "T" the number of steps, "4*N" a product.
        dtype: Of its elements.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: type[np.generic]

    def sizes(self, batch: int, steps: int = 1) -> tuple[int, ...]:
        """The shape for a batch size and a number of steps."""
        known = {"N": batch, "T": steps}
        return tuple(
            size if isinstance(size, int) else prod(_number(f, known) for f in size.split("*"))
            for size in self.shape
        )

    @property
    def follows_batch(self) -> bool:
        """Whether the batch size alone decides the shape."""
        factors = [f for size in self.shape if isinstance(size, str) for f in size.split("*")]
        return all(factor == "N" or factor.isdecimal() for factor in factors)

    def taken(self, value: ArrayLike) -> Array:
        """A value in this slot's dtype.

        Raises:
            InputError: Its shape does not fit.
        """
        array: Array = np.ascontiguousarray(value, dtype=self.dtype)
        pairs = list(zip(self.shape, array.shape, strict=False))
        fits = all(want == have for want, have in pairs if isinstance(want, int))
        if array.ndim != len(self.shape) or not fits:
            wanted = ", ".join(map(str, self.shape))
            raise InputError(f"input '{self.name}' has shape {array.shape}; give [{wanted}]")
        return array


@dataclass(frozen=True)
class StateSlot:
    """A state: an input, the output that follows it, its label, its value before all steps."""

    before: Slot
    after: str
    label: str
    initial: float


@dataclass(frozen=True)
class OverTime:
    """An output, and what its values at every step become: "stack" along `axis`, "mean", ..."""

    slot: Slot
    reduce: str
    axis: int

    @property
    def name(self) -> str:
        """In the file."""
        return self.slot.name


@dataclass(frozen=True)
class OnnxFile:
    """A loaded file.

    Attributes:
        path: Where it was.
        session: Runs it.
        form: "step", "sequence" or "unrolled".
        inputs: Those that are no states.
        axes: For every input, where it has its time axis; None for one that has none.
        states: Those that are inputs.
        outputs: Those that are no states.
        divisible: A long sequence may run in pieces, each from the states of the one before.
        about: All metadata.
    """

    path: str
    session: Any
    form: str
    inputs: tuple[Slot, ...]
    axes: tuple[int | None, ...]
    states: tuple[StateSlot, ...]
    outputs: tuple[OverTime, ...]
    divisible: bool
    about: Mapping[str, str]

    def batch_of(self, values: Sequence[Array]) -> int:
        """The batch size that inputs have.

        Raises:
            InputError: Two of them disagree.
        """
        found = {
            value.shape[slot.shape.index("N")]
            for slot, value in zip(self.inputs, values, strict=True)
            if "N" in slot.shape
        }
        if len(found) > 1:
            raise InputError(f"the inputs have batch sizes {sorted(found)}; give one")
        return next(iter(found), 1)


def load(path: str | os.PathLike[str], threads: int | None) -> OnnxFile:
    """Load a file that `snncompile.export` wrote.

    Args:
        path: The file.
        threads: How many threads one run may use; onnxruntime decides if None.

    Raises:
        InputError: There is no such file, onnxruntime refuses it, or something else wrote it.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):  # noqa: PTH113
        raise InputError(f"there is no file {name}; export the network first")
    session = _session(name, threads)
    about: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if not {"snncompile", "form", "states", "inputs", "outputs"} <= about.keys():
        raise InputError(
            f"{name} does not say what its states are; give a file that this version of "
            "snncompile.export wrote"
        )
    try:
        return _described(name, session, about)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} says what its states are in a way that cannot be read ({error!r}); "
            "export the network again"
        ) from error


def _described(name: str, session: Any, about: dict[str, str]) -> OnnxFile:  # noqa: ANN401
    """A file by its metadata."""
    slots = {slot.name: slot for slot in map(_slot, session.get_inputs())}
    pairs = json.loads(about["states"])
    states = tuple(
        StateSlot(slots.pop(s["input"]), s["output"], s["label"], s["initial"])
        for s in pairs
        if s["input"] in slots
    )
    axes = tuple(json.loads(about["inputs"]))
    outputs = tuple(
        OverTime(_slot(value), spec["reduce"], spec["axis"])
        for value, spec in zip(session.get_outputs(), json.loads(about["outputs"]), strict=False)
    )
    open_ended = all("T" in slot.shape for slot, axis in zip(slots.values(), axes, strict=True)
                     if axis is not None)  # fmt: skip
    stacked = AFTER not in about and all(output.reduce == "stack" for output in outputs)
    divisible = about["form"] == "sequence" and stacked and open_ended and len(states) == len(pairs)
    return OnnxFile(
        name, session, about["form"], tuple(slots.values()), axes, states, outputs, divisible, about
    )


def _session(name: str, threads: int | None) -> Any:  # noqa: ANN401
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but this one
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} does not load {name} ({reason}); "
            "export the network again"
        ) from error


def _slot(value: Any) -> Slot:  # noqa: ANN401
    return Slot(value.name, tuple(value.shape), _TYPES[value.type])


def _number(factor: str, known: Mapping[str, int]) -> int:
    return known[factor] if factor in known else int(factor)

"""How a file is to be written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from snncompile.errors import InputError
from snncompile.export.dimensions import Batch
from snncompile.export.draft import IR_VERSIONS
from snncompile.export.encoded_synapses import TARGETS, Target
from snncompile.export.encodings import ENCODINGS, Encoding
from snncompile.export.report import Form


@dataclass(frozen=True)
class Choices:
    """The settings of `export_program`, which explains them.

    Attributes:
        form: "step", "sequence" or "unrolled".
        weights: The encoding.
        target: Where the file will run.
        batch: "dynamic", or the batch size that the file declares.
        opset: The version of the operators.
    """

    form: Form
    weights: Encoding
    target: Target
    batch: Batch
    opset: int

    def check(self, path: Path) -> None:
        """Refuse what does not exist.

        Raises:
            InputError: The form, the encoding, the target, the batch, the opset or the directory.
        """
        forms: tuple[Form, ...] = get_args(Form)
        for name, known in (("form", forms), ("weights", ENCODINGS), ("target", TARGETS)):
            given: object = getattr(self, name)
            if given not in known:
                raise InputError(f"export: {name} is {given!r}; use one of {', '.join(known)}")
        batch: Any = self.batch
        if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
            raise InputError(f"export: batch is {batch!r}; use 'dynamic' or a positive number")
        if self.opset not in IR_VERSIONS:
            known_opsets = f"{min(IR_VERSIONS)} to {max(IR_VERSIONS)}"
            raise InputError(f"export: opset is {self.opset}; use {known_opsets}")
        if not path.parent.is_dir():
            raise InputError(f"export: the directory {path.parent} does not exist; create it first")
        if path.is_dir():
            raise InputError(f"export: {path} is a directory; name a file in it")

"""What snncompile raises: one clear error that names the place, the reason and the way out."""


class SnncompileError(Exception):
    """Base of every error that snncompile raises on purpose."""


class CaptureError(SnncompileError):
    """The model could not be turned into a program; the message names the line or the node."""


class PassRefusedError(SnncompileError):
    """A pass does not apply to this program; the message names the node and the way out."""


class InvalidProgramError(SnncompileError):
    """A program broke a rule of the IR: a fault of the pass or frontend that made it."""


class ExportError(SnncompileError):
    """A program could not be written as ONNX, or what was written did not agree with torch."""


class InputError(SnncompileError, ValueError):
    """An argument does not fit: a wrong shape, an unknown pass, a missing file."""

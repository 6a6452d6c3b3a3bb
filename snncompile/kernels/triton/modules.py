"""Python modules that were printed: files in the cache of kernels, since Triton reads its source.

A file is named after its content and read before it is used: one that was damaged is written anew.
It appears by renaming, so that two processes that write it at once both find it whole.
"""

import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType

from snncompile.kernels.build import BuildError, cache_directory


def module(source: str) -> ModuleType:
    """The module of a Python source.

    Args:
        source: Its text.

    Raises:
        BuildError: It imports something that is not installed, or fails.
    """
    name = f"snncompile_kernel_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    file = cache_directory() / f"{name}.py"
    if not _holds(file, source):
        _write(file, source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except ImportError as error:
        raise BuildError(f"there is no {error.name}") from error
    except Exception as error:  # what Triton makes of it is Triton's to say
        raise BuildError(f"a printed module failed: {error}") from error
    return made


def _holds(file: Path, source: str) -> bool:
    try:
        return file.read_bytes() == source.encode()
    except OSError:
        return False


def _write(file: Path, source: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(descriptor, "wb") as written:
        written.write(source.encode())
    Path(name).replace(file)

"""Compiles C once per machine and user, and loads what was compiled.

The cache is a directory of shared libraries named after everything that goes into them: source,
compiler, flags, processor. Each ends with its own SHA-256, so that a damaged file is noticed before
it is loaded. Files appear by renaming: two processes that build at once do the work twice, and both
find a whole file.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math", "-fPIC", "-shared",
)  # fmt: skip
_SEAL = hashlib.sha256().digest_size


class BuildError(Exception):
    """There is no compiler, or it failed; the message is what it said."""


def library(source: str) -> ctypes.CDLL:
    """The shared library of a C source.

    Args:
        source: C11.

    Raises:
        BuildError: It cannot be compiled on this machine.
    """
    command = _compiler()
    identity = "\n".join((source, *command, _processor()))
    file = cache_directory() / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.so"
    if not _is_whole(file):
        _build(source, command, file)
    return ctypes.CDLL(str(file))


@functools.cache
def cache_directory() -> Path:
    """Where kernels are kept: SNNCOMPILE_CACHE, or snncompile in the user's cache directory.

    A directory of this process only, if that one cannot be written or belongs to somebody else.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    directory = Path(os.environ.get("SNNCOMPILE_CACHE") or Path(base) / "snncompile")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid == os.getuid() and os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="snncompile-"))


@functools.cache
def _compiler() -> tuple[str, ...]:
    """The compiler's command, and its version as a last item that is a comment for the cache."""
    name = os.environ.get("CC") or "cc"
    path = shutil.which(name)
    if path is None:
        raise BuildError(f"there is no C compiler named {name}")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    return (path, *_FLAGS, version.stdout)


@functools.cache
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    features = ("flags", "Features", "model name", "cpu family", "model")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(features)))


def _is_whole(file: Path) -> bool:
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_SEAL]).digest() == content[-_SEAL:]


def _build(source: str, command: tuple[str, ...], file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        written = Path(directory, "kernel.c")
        built = Path(directory, "kernel.so")
        written.write_text(source)
        arguments = [*command[:-1], "-o", str(built), str(written), "-lm"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise BuildError(f"{command[0]} failed: {done.stderr.strip()}")
        content = built.read_bytes()
        built.write_bytes(content + hashlib.sha256(content).digest())
        built.replace(file)

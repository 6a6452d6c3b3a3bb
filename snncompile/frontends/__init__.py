"""The libraries whose models snncompile reads; one file each, imported only when it is met."""

import importlib
from functools import cache

from torch import nn

from snncompile.frontends.lowering import Frontend

LIBRARIES = {
    "snncompile": "snncompile.frontends.native",
    "spikingjelly": "snncompile.frontends.spikingjelly",
    "snntorch": "snncompile.frontends.snntorch",
    "norse": "snncompile.frontends.norse",
}
"""Import name of a library, and the module here that reads it."""


@cache
def load(library: str) -> Frontend | None:
    """The frontend of a library by its import name; None for a library that has none."""
    if library not in LIBRARIES:
        return None
    frontend: Frontend = importlib.import_module(LIBRARIES[library]).FRONTEND
    return frontend


@cache
def _of_class(kind: type[nn.Module]) -> Frontend | None:
    libraries = (base.__module__.partition(".")[0] for base in kind.__mro__)
    found = (load(library) for library in libraries)
    return next((frontend for frontend in found if frontend is not None), None)


def frontend_of(module: nn.Module) -> Frontend | None:
    """The frontend that knows a module's class or one it derives from, if there is one."""
    return _of_class(type(module))  # type: ignore[arg-type]

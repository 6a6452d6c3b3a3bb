"""A compiler for spiking neural networks: capture, rewrite, verify, export."""

from snncompile.api import bench, capture, export, transform, verify
from snncompile.deployed import Deployed
from snncompile.errors import SnncompileError
from snncompile.ir.program import Program
from snncompile.ir.text import text

__all__ = [
    "Deployed", "Program", "SnncompileError", "bench", "capture", "export", "text", "transform",
    "verify",
]  # fmt: skip
__version__ = "0.1.0"

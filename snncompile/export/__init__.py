"""ONNX export: one time step or whole sequences, with neurons as local functions."""

from snncompile.export.exporter import export_program
from snncompile.export.report import ExportReport

__all__ = ["ExportReport", "export_program"]

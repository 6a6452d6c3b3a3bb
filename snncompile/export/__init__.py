"""ONNX export: one time step or whole sequences, with neurons as local functions."""

from snncompile.export.encoded_synapses import Target
from snncompile.export.encodings import Encoding
from snncompile.export.exporter import export_program
from snncompile.export.report import ExportReport, Form

__all__ = ["Encoding", "ExportReport", "Form", "Target", "export_program"]

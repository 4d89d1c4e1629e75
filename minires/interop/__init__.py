"""The door to other libraries: weights in and out, networks out as ONNX files."""

from minires.interop.onnx import export_onnx
from minires.interop.weights import load, load_metadata, save, strip_prefix

__all__ = ["export_onnx", "load", "load_metadata", "save", "strip_prefix"]

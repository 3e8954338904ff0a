"""A pretrained PyTorch classifier -> an ONNX file, and the preprocessing that belongs to it.

PyTorch and torchvision are imported inside the functions that need them: they come with the
extra `qqonnx[export]`, and nothing else of qqonnx depends on them.
"""

from qqonnx.zoo.architectures import model_names
from qqonnx.zoo.export import ExportReport, export, export_module
from qqonnx.zoo.simplify import simplify

__all__ = ["ExportReport", "export", "export_module", "model_names", "simplify"]

"""Export of pretrained PyTorch classifiers to ONNX, with the preprocessing of their input.

PyTorch and torchvision come with the extra `qqonnx[export]`. They are imported inside the
functions that need them.
"""

from qqonnx.zoo.architectures import model_names
from qqonnx.zoo.export import ExportReport, export, export_module
from qqonnx.zoo.simplify import simplify

__all__ = ["ExportReport", "export", "export_module", "model_names", "simplify"]

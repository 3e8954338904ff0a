"""Inputs of a model: data sets of images with their preprocessing, arrays, runs of any shape."""

from qqonnx.inputs.dataset import Dataset, open_dataset
from qqonnx.inputs.preprocessing import Preprocessing
from qqonnx.inputs.read import Inputs, read_inputs

__all__ = ["Dataset", "Inputs", "Preprocessing", "open_dataset", "read_inputs"]

"""Evaluation of models: accuracy, agreement with the float model, size, load time, latency."""

from qqonnx.evaluation.data import Dataset, open_dataset
from qqonnx.evaluation.preprocessing import Preprocessing
from qqonnx.evaluation.runner import Evaluation, Row, evaluate

__all__ = ["Dataset", "Evaluation", "Preprocessing", "Row", "evaluate", "open_dataset"]

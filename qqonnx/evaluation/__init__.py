"""Evaluation of models: quality of their outputs, accuracy, own metrics, size, times."""

from qqonnx.evaluation.plugins import Metric
from qqonnx.evaluation.results import Evaluation, Row
from qqonnx.evaluation.runner import evaluate

__all__ = ["Evaluation", "Metric", "Row", "evaluate"]

"""Evaluation of models: accuracy, agreement with the float model, size, load time, latency."""

from qqonnx.evaluation.runner import Evaluation, Row, evaluate

__all__ = ["Evaluation", "Row", "evaluate"]

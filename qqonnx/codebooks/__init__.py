"""Codebooks: from values to levels and indices. Pure numpy on 1-D arrays, no ONNX.

Example:
    codebook = fit(values, "kmeans", 16)
    decoded = codebook.levels[assign(values, codebook)]
"""

from qqonnx.codebooks.assignment import assign
from qqonnx.codebooks.codebook import MAX_LEVELS, Codebook, Weights, nearest
from qqonnx.codebooks.distortion import Distortion, distortion, index_entropy
from qqonnx.codebooks.method import Method
from qqonnx.codebooks.registry import METHODS, fit, method_named
from qqonnx.codebooks.sample import Atoms, Sample, extremes, sample_of

__all__ = [
    "MAX_LEVELS",
    "METHODS",
    "Atoms",
    "Codebook",
    "Distortion",
    "Method",
    "Sample",
    "Weights",
    "assign",
    "distortion",
    "extremes",
    "fit",
    "index_entropy",
    "method_named",
    "nearest",
    "sample_of",
]

"""Codebooks: from values to levels and indices. Pure numpy on 1-D arrays, no ONNX.

Example:
    >>> import numpy as np
    >>> values = np.array([-1.0, -0.9, 0.0, 0.1, 0.8, 1.0])
    >>> codebook = fit(values, "kmeans", 3)
    >>> indices = assign(values, codebook)
    >>> indices.tolist(), codebook.levels[indices].round(2).tolist()
    ([0, 0, 1, 1, 2, 2], [-0.95, -0.95, 0.05, 0.05, 0.9, 0.9])
"""

from qqonnx.codebooks.assignment import assign
from qqonnx.codebooks.codebook import MAX_LEVELS, Codebook, Weights, nearest
from qqonnx.codebooks.distortion import Distortion, distortion, index_entropy
from qqonnx.codebooks.grid import as_scales, on_grid, scale_groups
from qqonnx.codebooks.kmeans import approximate_errors, approximate_levels
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
    "approximate_errors",
    "approximate_levels",
    "as_scales",
    "assign",
    "distortion",
    "extremes",
    "fit",
    "index_entropy",
    "method_named",
    "nearest",
    "on_grid",
    "sample_of",
    "scale_groups",
]

"""k-means of other packages, for tools/bench_convert.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

Cluster = Callable[[Array, int], tuple[Array, Array]]
"""A function from values and a number of clusters to centers and indices."""


def peers() -> tuple[dict[str, Cluster], dict[str, str]]:
    """Return the k-means functions of installed packages, and the reasons for omitted ones."""
    found: dict[str, Cluster] = {}
    missing: dict[str, str] = {}
    logging.disable(logging.WARNING)
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)  # one thread, as numpy's functions here

        def scikit_learn(values: Array, count: int) -> tuple[Array, Array]:
            result = KMeans(count, n_init=1, random_state=0).fit(values[:, None])
            return result.cluster_centers_[:, 0], result.labels_

        found["scikit-learn KMeans"] = scikit_learn
    except ImportError as error:
        missing["scikit-learn KMeans"] = str(error)
    try:
        import kmeans1d as exact

        def kmeans1d(values: Array, count: int) -> tuple[Array, Array]:
            result = exact.cluster(values, count)
            return np.array(result.centroids), np.array(result.clusters)

        found["kmeans1d"] = kmeans1d
    except ImportError as error:
        missing["kmeans1d"] = str(error)
    try:
        from coremltools.models.neural_network import quantization_utils

        cluster = quantization_utils._get_kmeans_lookup_table_and_weight

        def coremltools(values: Array, count: int) -> tuple[Array, Array]:
            table, indices = cluster((count - 1).bit_length(), values)
            return np.asarray(table).reshape(-1), np.asarray(indices).reshape(-1)

        found["coremltools k-means"] = coremltools
    except (ImportError, AttributeError) as error:
        missing["coremltools k-means"] = str(error)
    return found, missing

"""Results files as `qqonnx sweep` writes them, without the sweep."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qqonnx.codebooks import fit
from qqonnx.sweep.store import COLUMNS, open_store

Row = dict[str, Any]

WEIGHTS = 1_500_000


def write_results(path: Path, rows: Iterable[Row]) -> Path:
    with closing(open_store(path)) as store:
        places = ", ".join(f":{name}" for name in COLUMNS)
        blank = dict.fromkeys(COLUMNS)
        filled = [
            {**blank, "key": f"{at:064x}", "attempts": 1, **row} for at, row in enumerate(rows)
        ]
        with store:
            store.executemany(f"INSERT INTO runs VALUES ({places})", filled)
        store.execute("PRAGMA journal_mode=DELETE")
    return path


def done(method: str, file_bytes: int, top1: float | None, **changes: Any) -> Row:
    return {
        "status": "done",
        "model": "net",
        "model_sha256": "0" * 64,
        "dataset": "images",
        "samples": 200,
        "method": method,
        "baseline": int(method in ("float32", "float16") or method.startswith("ort-")),
        "options": '{"min_size": 1024, "skip": [], "include_bias": false}',
        "versions": '{"onnxruntime": "1.32.0"}',
        "hardware": '{"cores": 2, "memory": 16000000000}',
        "started": "2026-11-25T04:00:00+00:00",
        "wall_s": 2.5,
        "weights": WEIGHTS,
        "file_bytes": file_bytes,
        "bits_per_weight": 8 * file_bytes / WEIGHTS,
        "gzip_bytes": int(0.9 * file_bytes),
        "top1": top1,
        "agreement": None if top1 is None else min(1.0, top1 + 0.01),
        "kl": 0.01,
        **changes,
    }


@cache
def histogram(method: str, bits: int) -> dict[str, Any]:
    """Return normal weights with the levels that `method` gives them."""
    values = np.random.default_rng(bits).standard_normal(2000).astype(np.float32)
    counts, edges = np.histogram(values, bins=20)
    return {
        "name": "features.0.weight",
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "levels": fit(values, method, 2**bits).levels.tolist(),
    }


def codebook(method: str, bits: int, top1: float | None, layers: int = 12, **changes: Any) -> Row:
    """Return a run with layers and a histogram."""
    listed = [
        {
            "name": f"features.{at}.weight",
            "shape": [16, 16, 3, 3],
            "bits": float(bits),
            "levels": 2**bits,
            "weights": WEIGHTS // layers,
            "sqnr": 6.0 * bits - at / 10,
            "entropy": bits - 0.1,
            "bytes": WEIGHTS // layers * bits // 8,
        }
        for at in range(layers)
    ]
    found = {
        "bits": bits,
        "granularity": "tensor",
        "weight_error": 2.0**-bits,
        "layers": json.dumps(listed),
        "histogram": json.dumps([histogram(method, bits)]),
        **changes,
    }
    return done(method, 30_000 + WEIGHTS * bits // 8, top1, **found)


def small_sweep() -> list[Row]:
    """Return a sweep in which kmeans at 4 bits is what to pick."""
    return [
        done("float32", 6_000_000, 0.9),
        done("ort-dynamic-int8", 1_600_000, 0.895, bits=8),
        codebook("kmeans", 2, 0.5),
        codebook("kmeans", 4, 0.895),
        codebook("kmeans", 8, 0.9),
        codebook("uq", 2, 0.2),
        codebook("uq", 4, 0.7),
        codebook("uq", 8, 0.9),
    ]

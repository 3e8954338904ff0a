"""Compare three models in one loader: bytes, quality, time to load and time to run."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from minilm import KINDS

SENTENCES = Path(__file__).parent.parent / "web" / "sentences.txt"


def times(actions: dict[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """Return the processor time of each action relative to that of "float", measured in turns."""
    found: dict[str, list[float]] = {kind: [] for kind in actions}
    for turn in range(repeats + 1):
        for kind, action in actions.items():
            start = process_time()
            action()
            if turn:  # the first turn warms up
                found[kind].append(process_time() - start)
    return {kind: median(each) / median(found["float"]) for kind, each in found.items()}


def compare_encoders(load: Callable[[Path, str], Callable[[list[str]], Any]]) -> None:
    """Print how the repositories of `minilm.py` compare, as JSON.

    Args:
        load: takes a repository and the path of its model in it, and returns a function from
            sentences to their embeddings.
    """
    folder = Path(sys.argv[1])
    sentences = SENTENCES.read_text("utf-8").splitlines()
    files = {kind: f"onnx/{name}" for kind, name in KINDS.items()}
    loads = {kind: partial(load, folder / kind, file) for kind, file in files.items()}
    encoders = {kind: action() for kind, action in loads.items()}
    load_times = times(loads)
    run_times = times({kind: partial(run, sentences[:32]) for kind, run in encoders.items()})
    vectors = {kind: np.asarray(run(sentences)) for kind, run in encoders.items()}
    unit = {kind: v / np.linalg.norm(v, axis=1, keepdims=True) for kind, v in vectors.items()}
    nearest = {kind: (v @ v.T - 2 * np.eye(len(v))).argmax(axis=1) for kind, v in unit.items()}
    rows = {
        kind: {
            "bytes": (folder / kind / file).stat().st_size,
            "cosine": float((unit[kind] * unit["float"]).sum(axis=1).mean()),
            "same nearest": float((nearest[kind] == nearest["float"]).mean()),
            "load": load_times[kind],
            "run": run_times[kind],
        }
        for kind, file in files.items()
    }
    print(json.dumps(rows))

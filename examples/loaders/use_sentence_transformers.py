"""A compressed sentence encoder in sentence-transformers.

    python examples/loaders/minilm.py build/minilm
    python examples/loaders/use_sentence_transformers.py build/minilm

Only the name of the file changes.
"""

import os
from pathlib import Path

from compare import compare_encoders

os.environ["HF_HUB_OFFLINE"] = "1"

from sentence_transformers import SentenceTransformer


def load(repository: Path, file: str):
    """Return the encoder of a repository."""
    model = SentenceTransformer(
        str(repository), backend="onnx", device="cpu", local_files_only=True,
        model_kwargs={"file_name": file, "provider": "CPUExecutionProvider"},
    )  # fmt: skip
    return lambda sentences: model.encode(sentences, show_progress_bar=False)


if __name__ == "__main__":
    compare_encoders(load)

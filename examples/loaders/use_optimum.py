"""A compressed sentence encoder in optimum's ORTModel.

    python examples/loaders/minilm.py build/minilm
    python examples/loaders/use_optimum.py build/minilm

Only the name of the file changes.
"""

import os
from pathlib import Path

from compare import compare_encoders

os.environ["HF_HUB_OFFLINE"] = "1"

from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer


def load(repository: Path, file: str):
    """Return the encoder of a repository."""
    tokenizer = AutoTokenizer.from_pretrained(repository)
    model = ORTModelForFeatureExtraction.from_pretrained(
        repository, subfolder="onnx", file_name=Path(file).name, local_files_only=True
    )

    def encode(sentences: list[str]):
        tokens = tokenizer(sentences, padding=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        return ((states * mask).sum(1) / mask.sum(1)).detach().numpy()

    return encode


if __name__ == "__main__":
    compare_encoders(load)

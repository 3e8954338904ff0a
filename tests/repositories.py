"""Folders of models as hubs and exporters lay them out."""

from __future__ import annotations

from pathlib import Path

import onnx
from building import normal, tensor_of

ENCODER = """<ir_version: 8, opset_import: ["": 17]>
m (int64[N,L] input_ids) => (float[N,L,48] last_hidden_state) {
  e = Gather(embedding, input_ids)  h = MatMul(e, up)  r = Relu(h)
  last_hidden_state = MatMul(r, down)
}"""

MERGED = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,48] x, float[N,64] past, bool[1] use_cache_branch) => (float[N,50] logits) {
  h = If (use_cache_branch) <
    then_branch = with_past () => (float[N,64] a) { b = MatMul(x, then_w)  a = Add(b, past) },
    else_branch = without_past () => (float[N,64] c) { c = MatMul(x, else_w) }
  >
  logits = MatMul(h, head)
}"""

HEAD = """<ir_version: 8, opset_import: ["": 17]>
m (float[N,48] pixels) => (float[N,64] image_embeds) { image_embeds = MatMul(pixels, w) }"""


def write(
    path: Path, text: str, *, data: str | None = None, seed: int = 0, **shapes: tuple[int, ...]
) -> Path:
    """Write a model with normal weights; `data` names the file of its external data."""
    model = onnx.parser.parse_model(text)
    for number, (name, shape) in enumerate(shapes.items()):
        model.graph.initializer.append(tensor_of(normal(*shape, seed=seed + number), name))
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def encoder_decoder(folder: Path) -> Path:
    """Write an encoder with external data, a merged decoder with If branches, and other files."""
    onnx_folder = folder / "onnx"
    encoder = {"embedding": (300, 48), "up": (48, 64), "down": (64, 48)}
    write(onnx_folder / "encoder_model.onnx", ENCODER, data="encoder_model.onnx_data", **encoder)
    decoder = {"then_w": (48, 64), "else_w": (48, 64), "head": (64, 50)}
    write(onnx_folder / "decoder_model_merged.onnx", MERGED, seed=5, **decoder)
    write(folder / "vision" / "model.onnx", HEAD, seed=9, w=(48, 64))
    (folder / "config.json").write_text('{"model_type": "t5"}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_bytes(b"a\nb\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by its relative path."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

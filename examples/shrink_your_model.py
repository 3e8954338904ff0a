"""Shrink your own model in five minutes.

    python examples/shrink_your_model.py

Runs offline on the bundled model (handwritten digits). For your own model, set the three paths in
the first step. docs/tutorial.md explains each step.
"""

# %% 1. Your data: a float model, unlabeled images for calibration, labeled images for evaluation.
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

work = Path(tempfile.mkdtemp(prefix="shrink-"))
bundled = Path(__file__).parent.parent / "models"

model = bundled / "digits_mobilenet_v3_small.onnx"  # an ONNX file
calibration_images = work / "unlabeled"  # a folder of images, in any order
test_data = work / "test.npz"  # a folder with one subfolder of images per class, or such a file

# The bundled images stand in for yours: one half calibrates, the other half evaluates.
with np.load(bundled / "digits_test.npz") as digits:
    images, labels = digits["images"], digits["labels"]
calibration_images.mkdir()
for number, pixels in enumerate(images[::2]):
    Image.fromarray(pixels).save(calibration_images / f"{number}.png")
np.savez(test_data, images=images[1::2], labels=labels[1::2])

# %% 2. What is in the model: which tensors are weights, and how large they are.
from qqonnx import inspect

plain = inspect(model).plain
print(f"{len(plain)} float tensors, the largest is {max(plain, key=lambda t: t.nbytes).name}")

# %% 3. The simplest way: the same number of bits for every weight.
from qqonnx import Options, compress

simple = work / "simple.onnx"
report = compress(model, simple, Options(method="kmeans", bits=4, granularity="scale"))
print(f"4 bits: {report.bytes_before / report.bytes_after:.1f} times smaller")

# %% 4. The most accurate file of a given size: your images decide the levels of each weight.
from qqonnx import Calibration, Target

best = work / "best.onnx"
compress(model, best, calibration=Calibration(calibration_images, target=Target(ratio=10)))
print(f"target: {model.stat().st_size / best.stat().st_size:.1f} times smaller")

# %% 5. What it costs: accuracy, agreement with the float model, load time and latency.
from qqonnx import evaluate

evaluation = evaluate([simple, best], test_data, baseline=model)
for row in evaluation.rows:
    print(f"{row.model}: {row.bytes:,} bytes, top-1 {row.top1:.1%}, agreement {row.agreement:.1%}")

# %% 6. Run it: any ONNX Runtime, without qqonnx.
import onnxruntime

session = onnxruntime.InferenceSession(best, providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
(logits,) = session.run(None, {given.name: np.zeros((1, 3, 64, 64), np.float32)})
print(f"{given.name} {given.shape} -> {logits.shape}; the files are in {work}")

"""PyTorch classifier -> ONNX file, compared with PyTorch before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.preprocessing import PREPROCESSING_KEY, Preprocessing
from qqonnx.extras import import_extra
from qqonnx.temporary import atomic_write
from qqonnx.zoo.architectures import pretrained
from qqonnx.zoo.tracing import INPUT, trace, write

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_OPSET = 18
"""The opset that PyTorch's ONNX functions are written in; ONNX Runtime reads it since 1.14."""

TOLERANCE = 1e-4
"""Largest difference to PyTorch's outputs, relative to the largest absolute one of them."""

SOURCE_KEY = "qqonnx.source"
"""Key in the model's metadata properties; its value says where the weights come from."""

_BATCHES = (1, 2)


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote.

    Attributes:
        path: The ONNX file.
        source: Where architecture and weights come from.
        parameters: Number of values in the model's float weights.
        opset: Version of the standard ONNX operators used.
        file_bytes: Size of the file, external data included.
        max_abs_difference: Largest difference between ONNX Runtime's outputs and PyTorch's, on
            seeded random images.
        max_rel_difference: The same, divided by the largest absolute output.
        preprocessing: What the model's input images go through.
    """

    path: Path
    source: str
    parameters: int
    opset: int
    file_bytes: int
    max_abs_difference: float
    max_rel_difference: float
    preprocessing: Preprocessing


def export(
    model: str,
    output: Path,
    *,
    weights: str = "DEFAULT",
    image_size: int | None = None,
    opset: int = DEFAULT_OPSET,
    simplify: bool = False,
) -> ExportReport:
    """Write a pretrained image classifier as ONNX, with a dynamic batch dimension.

    Args:
        model: Name of a torchvision classification model, or "efficientnet_lite0".
        output: File to write: input "input" float32 [batch, 3, size, size], output "logits"
            float32 [batch, classes]. Batch normalization that follows a convolution is folded
            into it where nothing else reads that; auxiliary classifiers are left out.
        weights: "DEFAULT" or another name in torchvision's weights enum (downloaded by
            torchvision, cached by it); a local `.pth` or `.safetensors` state dict; or "none"
            for random weights, the same every time.
        image_size: Side of the input images in pixels; default: what the weights are for.
        opset: Version of the standard ONNX operators, 18 or later.
        simplify: Pass the graph through onnxsim.

    Returns:
        What was written, and how far its outputs are from PyTorch's.

    Raises:
        QqonnxError: Unknown model, weights missing or not fitting, an optional package missing,
            the file cannot be written, or its outputs differ from PyTorch's.
    """
    ready = pretrained(model, weights, image_size)
    return export_module(
        ready.module,
        output,
        preprocessing=ready.preprocessing,
        source=ready.source,
        opset=opset,
        simplify=simplify,
    )


def export_module(
    module: nn.Module,
    output: Path,
    *,
    preprocessing: Preprocessing,
    source: str,
    opset: int = DEFAULT_OPSET,
    simplify: bool = False,
) -> ExportReport:
    """Write any PyTorch image classifier as ONNX; arguments and errors as for `export`.

    Args:
        module: Takes float32 [batch, channels, size, size], gives float32 [batch, classes].
            Channels are as many as the preprocessing has means.
        output: File to write.
        preprocessing: Recorded in the file; its crop is the image size.
        source: Recorded in the file: where the weights come from.
        opset: Version of the standard ONNX operators.
        simplify: Pass the graph through onnxsim.
    """
    torch = import_extra("torch", "export")
    module = module.eval()
    size, channels = preprocessing.crop, len(preprocessing.mean)
    noise = np.random.default_rng(0).standard_normal((max(_BATCHES), channels, size, size))
    images = torch.from_numpy(noise.astype(np.float32))
    metadata = {SOURCE_KEY: source, PREPROCESSING_KEY: preprocessing.to_json()}
    model = trace(module, images, source, opset, metadata, simplify=simplify)
    output = Path(output)
    try:
        # Written and checked in a folder beside the target: a model over 2 GB is two files,
        # and the first names the second.
        with atomic_write(output) as target:
            written = write(model, target)
            difference, magnitude = _compare(module, images, written[0], source)
            file_bytes = sum(path.stat().st_size for path in written)
    except OSError as error:
        raise QqonnxError(f"{output}: cannot write: {error.strerror or error}") from error
    return ExportReport(
        path=output,
        source=source,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        opset=opset,
        file_bytes=file_bytes,
        max_abs_difference=difference,
        max_rel_difference=difference / magnitude if magnitude else 0.0,
        preprocessing=preprocessing,
    )


def _compare(module: nn.Module, images: Tensor, path: Path, source: str) -> tuple[float, float]:
    """Run the file in ONNX Runtime and `module` in PyTorch, at each batch size.

    Returns:
        The largest absolute difference, and the largest absolute output of PyTorch.

    Raises:
        QqonnxError: ONNX Runtime does not load the file, the outputs differ by more than
            `TOLERANCE`, or they are not finite.
    """
    torch = import_extra("torch", "export")
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise QqonnxError(f"{source}: ONNX Runtime does not load the export: {error}") from error
    difference = magnitude = 0.0
    for batch in _BATCHES:
        with torch.inference_mode():
            expected = module(images[:batch]).numpy()
        actual = session.run(None, {INPUT: images[:batch].numpy()})[0]
        if not np.isfinite(expected).all():
            raise QqonnxError(f"{source}: its outputs are NaN or infinite in PyTorch already")
        if actual.shape != expected.shape:
            raise QqonnxError(
                f"{source}: the export gives shape {actual.shape}, PyTorch {expected.shape}"
            )
        difference = max(difference, float(np.abs(actual - expected).max()))
        magnitude = max(magnitude, float(np.abs(expected).max()))
    if not difference <= TOLERANCE * magnitude:
        raise QqonnxError(
            f"{source}: the export differs from PyTorch by {difference:.2g} "
            f"where outputs reach {magnitude:.2g}; allowed is {TOLERANCE:g} of that"
        )
    return difference, magnitude

"""Export a PyTorch classifier to an ONNX file whose outputs equal PyTorch's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qqonnx.errors import QqonnxError
from qqonnx.extras import import_extra
from qqonnx.inputs.preprocessing import PREPROCESSING_KEY, Preprocessing
from qqonnx.model.save import staged, write, written_bytes
from qqonnx.model.session import open_session, run_session
from qqonnx.zoo.architectures import pretrained
from qqonnx.zoo.tracing import INPUT, OLDEST_OPSET, trace

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference from PyTorch's outputs, relative to the largest absolute output."""

SOURCE_KEY = "qqonnx.source"
"""Key of the metadata property with the origin of architecture and weights."""

_BATCHES = (1, 2)
"""Batch sizes at which the outputs are compared."""


@dataclass(frozen=True)
class ExportReport:
    """The result of `export`.

    Attributes:
        path: The ONNX file.
        source: Origin of architecture and weights.
        parameters: Number of values in the float weights.
        opset: Version of the standard ONNX operators used.
        file_bytes: Size of the file, external data included.
        max_abs_difference: Largest difference between the outputs of ONNX Runtime and PyTorch on
            seeded random images.
        max_rel_difference: The same, divided by the largest absolute output.
        preprocessing: Preprocessing of the input images.
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
    output: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "DEFAULT",
    image_size: int | None = None,
    opset: int = OLDEST_OPSET,
    simplify: bool = False,
) -> ExportReport:
    """Write a pretrained image classifier as ONNX, with a dynamic batch dimension.

    Args:
        model: Name of a torchvision classification model, or "efficientnet_lite0".
        output: Path of the file to write. The model has the input "input", float32
            [batch, 3, size, size], and the output "logits", float32 [batch, classes]. Batch
            normalization is folded into a preceding convolution that nothing else reads.
            Auxiliary classifiers are left out.
        weights: "DEFAULT" or another name in torchvision's weights enum, which torchvision
            downloads and caches; the path of a `.pth` or `.safetensors` state dict; or "none" for
            random weights from a fixed seed.
        image_size: Side of the input images in pixels; by default the size for these weights.
        opset: Version of the standard ONNX operators, 18 or later.
        simplify: Pass the graph through onnxsim.

    Returns:
        The file and the difference of its outputs from PyTorch's.

    Raises:
        QqonnxError: The model is unknown, the weights are missing or do not fit, an optional
            package is missing or broken, the file cannot be written, or its outputs differ from
            PyTorch's.
    """
    ready = pretrained(model, os.fspath(weights), image_size)
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
    output: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing,
    source: str,
    opset: int = OLDEST_OPSET,
    simplify: bool = False,
) -> ExportReport:
    """Write any PyTorch image classifier as ONNX; errors as for `export`.

    Args:
        module: Takes float32 [batch, channels, size, size] with one channel per mean of the
            preprocessing; returns float32 [batch, classes].
        output: Path of the file to write.
        preprocessing: Recorded in the file; its crop is the image size.
        source: Origin of the weights, recorded in the file.
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
    with staged(output) as written:
        write(model, written)
        difference, magnitude = _compare(module, images, written, source)
        file_bytes = written_bytes(written)
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
    """Compare the file in ONNX Runtime with `module` in PyTorch, at each batch size.

    Returns:
        The largest absolute difference, and the largest absolute output of PyTorch.

    Raises:
        QqonnxError: ONNX Runtime does not load or run the file, its outputs differ by more than
            `TOLERANCE`, or PyTorch's outputs are not finite.
    """
    torch = import_extra("torch", "export")
    session = open_session(path, name=f"{source}: the export")
    difference = magnitude = 0.0
    for batch in _BATCHES:
        with torch.inference_mode():
            expected = module(images[:batch]).numpy()
        if not np.isfinite(expected).all():
            raise QqonnxError(f"{source}: the outputs in PyTorch are NaN or infinite")
        feed = {INPUT: images[:batch].numpy()}
        (actual,) = run_session(session, feed, name=f"{source}: the export")
        if actual.shape != expected.shape:
            raise QqonnxError(
                f"{source}: the export returns shape {actual.shape}, PyTorch {expected.shape}"
            )
        difference = max(difference, float(np.abs(actual - expected).max()))
        magnitude = max(magnitude, float(np.abs(expected).max()))
    if not difference <= TOLERANCE * magnitude:
        raise QqonnxError(
            f"{source}: the export differs from PyTorch by {difference:.2g} "
            f"where outputs reach {magnitude:.2g}; the limit is {TOLERANCE:g} of that"
        )
    return difference, magnitude

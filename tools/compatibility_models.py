"""The models with random weights of tools/compatibility.py, and their export to ONNX.

A model's name is SOURCE/NAME, such as torchvision/resnet18.
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from qqonnx import zoo
from qqonnx.errors import QqonnxError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The smallest image side that the architecture's strides, patches and windows allow. Default: 64.
SIDES = {"inception_v3": 128, "alexnet": 96, "maxvit_t": 224, "vit_h_14": 56}

TIMM = """
beit_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_tiny coatnet_nano_rw_224 convit_tiny
convnextv2_atto crossvit_tiny_240 cspdarknet53 davit_tiny deit_tiny_patch16_224 dla34 dpn68
edgenext_xx_small efficientformer_l1 efficientvit_b0 ese_vovnet19b_dw fastvit_t8 fbnetc_100
gcresnet33ts ghostnet_100 gmlp_ti16_224 haloregnetz_b hardcorenas_a hgnetv2_b0 hrnet_w18_small
inception_next_atto lambda_resnet26t lcnet_050 levit_128s mambaout_femto maxvit_nano_rw_256
mixer_s32_224 mixnet_s mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050
nf_regnet_b0 nfnet_l0 poolformer_s12 pvt_v2_b0 regnetz_005 repvgg_a0 repvit_m0_9 res2net50_14w_8s
resmlp_12_224 resnest14d resnetv2_50 rexnet_100 selecsls42 semnasnet_075 sequencer2d_s shvit_s1
skresnet18 spnasnet_100 starnet_s1 swiftformer_xs swinv2_cr_tiny_224 tf_efficientnet_lite0
tinynet_e tiny_vit_5m_224 tnt_s_patch16_224 twins_svt_small visformer_tiny vit_tiny_patch16_224
volo_d1_224 xception41 xcit_nano_12_p16_224
""".split()  # noqa: SIM905
"""One or two small architectures from each family in timm."""


def names() -> list[str]:
    """Return the names of all models in the installed packages, small models first."""
    import torchvision

    models = torchvision.models

    def sorted_names(module: Any) -> list[str]:
        known = models.list_models(module=module)
        return sorted(known, key=lambda n: models.get_model_weights(n).DEFAULT.meta["num_params"])

    found = [f"segmentation/{name}" for name in sorted_names(models.segmentation)]
    found += [f"detection/{name}" for name in sorted_names(models.detection)]
    if find_spec("timm"):
        found += [f"timm/{name}" for name in TIMM]
    return found + [f"torchvision/{name}" for name in sorted_names(models)]


def write(name: str, folder: Path) -> Path:
    """Write the model `name` into `folder` as ONNX and return the file.

    Raises:
        QqonnxError: the model cannot be exported.
        ValueError: unknown source.
    """
    source, _, model = name.partition("/")
    file = folder / "model.onnx"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if source == "torchvision":
        zoo.export(model, file, weights="none", image_size=SIDES.get(model, 64))
    elif source in _EXPORTERS:
        _EXPORTERS[source](model, file)
    else:
        raise ValueError(f"no source {source!r}")
    return file


def _write_timm(name: str, file: Path) -> None:
    import timm
    import torch

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    _export(module, torch.zeros(module.default_cfg["input_size"])[None], file)


def _write_segmentation(name: str, file: Path) -> None:
    import torch
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()

    class Mask(torch.nn.Module):
        def forward(self, image: Any) -> Any:
            return module(image)["out"]

    wrapped = Mask()
    wrapped.model = module
    _export(wrapped.eval(), torch.zeros(1, 3, 64, 64), file)


def _write_detection(name: str, file: Path) -> None:
    import torch
    import torchvision

    torch.manual_seed(0)
    sizes = {} if name.startswith("ssd") else {"min_size": 160, "max_size": 160}
    side = 320 if "320" in name else 300 if name.startswith("ssd") else 160
    builder = torchvision.models.get_model_builder(name)
    module = builder(weights=None, weights_backbone=None, **sizes).eval()

    class Boxes(torch.nn.Module):
        def forward(self, image: Any) -> Any:
            return tuple(module([image])[0].values())

    wrapped = Boxes()
    wrapped.model = module
    _export(wrapped.eval(), torch.rand(3, side, side), file)


def _export(module: Any, inputs: Any, file: Path) -> None:
    """Export with PyTorch's exporter, or with its older tracing exporter where that fails."""
    import torch

    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    try:
        torch.onnx.export(module, arguments, file, dynamo=True, external_data=False, verbose=False)
    except Exception as error:
        first = error
    else:
        return
    try:
        torch.onnx.export(module, arguments, file, dynamo=False, opset_version=17)
    except Exception as error:
        reason = " ".join(str(first.__cause__ or first).split())[:160]
        raise QqonnxError(f"PyTorch cannot export it: {reason}") from error


_EXPORTERS: dict[str, Callable[[str, Path], None]] = {
    "detection": _write_detection,
    "segmentation": _write_segmentation,
    "timm": _write_timm,
}

"""Models by name: building each one and loading its weights."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.extras import import_extra
from qqonnx.inputs.preprocessing import Preprocessing
from qqonnx.zoo import efficientnet_lite
from qqonnx.zoo.weights import StateDict, download, is_copy_of, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

RANDOM_SEED = 0
"""Seed of the random weights of `weights="none"`."""

# Auxiliary classifiers of GoogLeNet and Inception v3 are used in training only.
_AUXILIARY = re.compile(r"^(aux\d|AuxLogits)\.")

# DenseNet's published files name a layer `norm.1`, its modules `norm1`.
# Pattern from torchvision.models.densenet._load_state_dict.
_DENSENET_LAYER = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)


@dataclass(frozen=True)
class Pretrained:
    """A PyTorch classifier, ready to export.

    Attributes:
        module: The model, in eval mode, float32, on the CPU.
        preprocessing: Preprocessing of its input images.
        source: Origin of architecture and weights, such as "torchvision resnet18 IMAGENET1K_V1".
    """

    module: nn.Module
    preprocessing: Preprocessing
    source: str


def model_names() -> list[str]:
    """Return the names of all models that `export` accepts, sorted.

    Raises:
        QqonnxError: torchvision is not installed.
    """
    models = import_extra("torchvision.models", "export")
    names: list[str] = models.list_models(module=models)
    return sorted([*names, efficientnet_lite.NAME])


def pretrained(model: str, weights: str, image_size: int | None) -> Pretrained:
    """Build the model called `model` and load its weights; arguments as for `export`."""
    known = model_names()
    if model not in known:
        similar = difflib.get_close_matches(model, known, n=5, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(similar)}?" if similar else "such as resnet18, mobilenet_v2"
        )
        raise QqonnxError(f"unknown model {model!r}: no torchvision classification model; {hint}")
    if model == efficientnet_lite.NAME:
        return _efficientnet_lite0(weights, image_size)
    return _torchvision(model, weights, image_size)


def _torchvision(model: str, weights: str, image_size: int | None) -> Pretrained:
    models = import_extra("torchvision.models", "export")
    published = models.get_model_weights(model)
    entry = _published_entry(model, weights, published)
    if weights == "none":
        state, origin = None, f"random weights (seed {RANDOM_SEED})"
    elif entry is not None and weights in ("DEFAULT", entry.name):
        state, origin = download(model, entry), entry.name
    else:
        path = Path(weights)
        state, origin = read_state_dict(path), entry.name if entry is not None else path.name

    preprocessing = _preprocessing_of((entry or published.DEFAULT).transforms())
    if image_size is not None:
        preprocessing = preprocessing.scaled_to(image_size)
    arguments = _constructor_arguments(model, preprocessing.crop, entry is not None)
    module = _seeded(models.get_model, model, **arguments)
    if state is not None:
        state = _adapt_names(state)
        classes = _number_of_classes(module, state)
        if classes is not None:
            module = _seeded(models.get_model, model, **arguments, num_classes=classes)
        _load(module, state, f"{model}: {weights}")
    return Pretrained(module.eval(), preprocessing, f"torchvision {model} {origin}")


def _efficientnet_lite0(weights: str, image_size: int | None) -> Pretrained:
    preprocessing = efficientnet_lite.PREPROCESSING
    if image_size is not None:
        preprocessing = preprocessing.scaled_to(image_size)
    module = _seeded(efficientnet_lite.build, preprocessing.crop)
    if weights == "none":
        origin = f"random weights (seed {RANDOM_SEED})"
    else:
        published = weights in ("DEFAULT", efficientnet_lite.PUBLISHED)
        path = efficientnet_lite.weights_path() if published else Path(weights)
        origin = efficientnet_lite.PUBLISHED if published else path.name
        state = read_state_dict(path)
        _load(module, state, f"{efficientnet_lite.NAME}: {weights}")
    source = f"efficientnet-lite-pytorch {efficientnet_lite.NAME} {origin}"
    return Pretrained(module.eval(), preprocessing, source)


def _published_entry(model: str, weights: str, published: Any) -> Any | None:
    """Return the member of torchvision's weights enum that `weights` names, or None.

    A local copy of a published file counts as that member: it gets the preprocessing and the
    constructor arguments of the member.
    """
    if weights == "none":
        return None
    if weights == "DEFAULT":
        return published.DEFAULT
    members = {member.name: member for member in published}
    if weights in members:
        return members[weights]
    path = Path(weights)
    if not path.is_file():
        names = ", ".join(["DEFAULT", *members, "none"])
        raise QqonnxError(f"{model}: no weights {weights!r}: neither a file nor one of {names}")
    return next((member for member in published if is_copy_of(path, member.url)), None)


def _constructor_arguments(model: str, image_size: int, published: bool) -> dict[str, Any]:
    if model.startswith("vit_"):
        return {"image_size": image_size}
    if model.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    if model in ("googlenet", "inception_v3"):
        # The published weights were converted from TensorFlow: the network has to undo
        # torchvision's normalization first, as torchvision's own loaders request.
        return {"aux_logits": False, "init_weights": True, "transform_input": published}
    return {}


def _seeded(build: Callable[..., nn.Module], *positional: Any, **keywords: Any) -> nn.Module:
    """Call `build` with a fixed seed for its random weights."""
    torch = import_extra("torch", "export")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        module = build(*positional, **keywords)
        weight = _classifier(module)[1].weight
        # An all-zero classifier, as in vision transformers, would hide every difference.
        if not weight.any():
            torch.nn.init.trunc_normal_(weight, std=0.02)
    return module


def _preprocessing_of(transforms: Any) -> Preprocessing:
    """Read a torchvision `ImageClassification` preset, such as `weights.transforms()`."""
    return Preprocessing(
        resize=int(transforms.resize_size[0]),
        crop=int(transforms.crop_size[0]),
        interpolation=str(transforms.interpolation.value),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _adapt_names(state: StateDict) -> StateDict:
    kept = {name: value for name, value in state.items() if not _AUXILIARY.match(name)}
    return {_DENSENET_LAYER.sub(r"\1\2", name): value for name, value in kept.items()}


def _classifier(module: nn.Module) -> tuple[str, Any]:
    """Return the name and the module of the classifier: the last layer with weights."""
    return next(
        (name, layer)
        for name, layer in reversed(list(module.named_modules()))
        if hasattr(layer, "out_features") or hasattr(layer, "out_channels")
    )


def _number_of_classes(module: nn.Module, state: StateDict) -> int | None:
    """Return the number of classes of `state` if it differs from that of `module`, else None."""
    name, layer = _classifier(module)
    weight, own = state.get(f"{name}.weight"), layer.weight
    if weight is None or weight.shape[:1] == own.shape[:1] or weight.shape[1:] != own.shape[1:]:
        return None
    return int(weight.shape[0])


def _load(module: nn.Module, state: StateDict, name: str) -> None:
    """Load every parameter and buffer of `module` from `state`.

    Raises:
        QqonnxError: A name is missing or unexpected, or a shape differs. The message has the
            first one.
    """
    own: Any = module.state_dict()
    # PyTorch added the counters `num_batches_tracked` later; inference does not use them.
    missing = (k for k in own if k not in state and not k.endswith(".num_batches_tracked"))
    problems = (
        [f"it lacks {key!r}" for key in missing]
        or [f"it has unknown {key!r}" for key in state if key not in own]
        or [
            f"{key!r} has shape {list(state[key].shape)}, the model {list(value.shape)}"
            for key, value in own.items()
            if key in state and state[key].shape != value.shape
        ]
    )
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise QqonnxError(f"{name}: the state dict does not fit: {problems[0]}{more}")
    complete: Any = own | dict(state)
    # MnasNet requires the format version, which safetensors files do not have.
    complete._metadata = own._metadata
    module.load_state_dict(complete)

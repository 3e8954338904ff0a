"""Which models there are by name, and how each is built around a state dict."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qqonnx.errors import QqonnxError
from qqonnx.evaluation.preprocessing import Preprocessing
from qqonnx.extras import import_extra
from qqonnx.zoo import efficientnet_lite
from qqonnx.zoo.weights import StateDict, download, is_copy_of, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

RANDOM_SEED = 0
"""Seed of the weights that `weights="none"` draws."""

# Auxiliary classifiers of GoogLeNet and Inception v3: used in training only.
_AUXILIARY = re.compile(r"^(aux\d|AuxLogits)\.")

# DenseNet's published files name a layer `norm.1`; its modules call it `norm1`.
# The pattern is that of torchvision.models.densenet._load_state_dict.
_DENSENET_LAYER = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)


@dataclass(frozen=True)
class Pretrained:
    """A PyTorch classifier, ready to export.

    Attributes:
        module: The model, in eval mode, float32, on the CPU.
        preprocessing: What its input images go through.
        source: Where architecture and weights come from, such as
            "torchvision resnet18 IMAGENET1K_V1".
    """

    module: nn.Module
    preprocessing: Preprocessing
    source: str


def model_names() -> list[str]:
    """Return the name of every model that `export` knows, sorted.

    Raises:
        QqonnxError: torchvision is not installed.
    """
    models = import_extra("torchvision.models", "export")
    names: list[str] = models.list_models(module=models)
    return sorted([*names, efficientnet_lite.NAME])


def pretrained(model: str, weights: str, image_size: int | None) -> Pretrained:
    """Build the model called `model` and load its weights; see `qqonnx.zoo.export`."""
    known = model_names()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "such as resnet18, mobilenet_v2"
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
    """Return the member of torchvision's weights enum that `weights` stands for, if any.

    A local file counts as the member that it is a copy of: then it gets that member's own
    preprocessing and constructor arguments, as if it had been downloaded.
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
        # The published files were converted from TensorFlow: their network first undoes
        # torchvision's normalization, as torchvision's own loaders ask for.
        return {"aux_logits": False, "init_weights": True, "transform_input": published}
    return {}


def _seeded(build: Callable[..., nn.Module], *positional: Any, **keywords: Any) -> nn.Module:
    """Call `build` so that its random weights are the same every time."""
    torch = import_extra("torch", "export")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        module = build(*positional, **keywords)
        weight = _classifier(module)[1].weight
        # Vision transformers start from an all-zero classifier, which would hide every difference.
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
    """Return the name and the layer that gives one output a class: the last with weights."""
    return next(
        (name, layer)
        for name, layer in reversed(list(module.named_modules()))
        if hasattr(layer, "out_features") or hasattr(layer, "out_channels")
    )


def _number_of_classes(module: nn.Module, state: StateDict) -> int | None:
    """Return how many classes `state` has if it is fine-tuned to another number of them."""
    name, layer = _classifier(module)
    weight, own = state.get(f"{name}.weight"), layer.weight
    if weight is None or weight.shape[:1] == own.shape[:1] or weight.shape[1:] != own.shape[1:]:
        return None
    return int(weight.shape[0])


def _load(module: nn.Module, state: StateDict, where: str) -> None:
    """Load every parameter and buffer of `module` from `state`.

    Raises:
        QqonnxError: A name is missing or unexpected, or a shape differs; names the first.
    """
    own: Any = module.state_dict()
    # Counters that PyTorch added to batch normalization later; inference does not use them.
    optional = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own]
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or unexpected:
        kind, names = ("lacks", missing) if missing else ("has unknown", unexpected)
        raise QqonnxError(
            f"{where}: the state dict does not fit: it {kind} {names[0]!r}{_and_more(names)}"
        )
    if shapes:
        name = shapes[0]
        raise QqonnxError(
            f"{where}: the state dict does not fit: {name!r} has shape {list(state[name].shape)}, "
            f"the model {list(own[name].shape)}{_and_more(shapes)}"
        )
    complete: Any = own | dict(state)
    # load_state_dict's format version: safetensors files do not carry it, MnasNet asks for it.
    complete._metadata = own._metadata
    module.load_state_dict(complete)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""

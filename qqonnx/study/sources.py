"""The sources of the study's networks and images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qqonnx.cache import cache_folder
from qqonnx.errors import QqonnxError
from qqonnx.study.data import ImageSet, digits, image_folder
from qqonnx.study.jobs import Measurement, Progress, run_jobs
from qqonnx.study.models import StudyModel, digest_of, reference_models
from qqonnx.study.reference import IMAGE_SIZE, RECIPES
from qqonnx.study.small import bundled_network


@dataclass(frozen=True)
class Sources:
    """The sources of images and weights. The defaults need no network.

    Attributes:
        data: image folder for training the reference models; None for scikit-learn's digits.
        mnist: folder of MNIST's files for the small network, or "download"; None for digits.
        imagenette: image folder (train and val) of ImageNet classes, for pretrained networks
            instead of reference models.
        weights: the weights of pretrained networks: torchvision's name, or a folder with
            NAME.pth or NAME.safetensors.
        checkout: a source checkout with the bundled model, for the quick run.
    """

    data: Path | None = None
    mnist: Path | None = None
    imagenette: Path | None = None
    weights: str = "DEFAULT"
    checkout: Path = Path(__file__).parents[2]


def reference_images(data: Path | None) -> ImageSet:
    """Return the training images of the reference models."""
    return digits() if data is None else image_folder(data, IMAGE_SIZE)


def networks(
    sources: Sources, *, bundled_only: bool, workers: int, progress: Progress
) -> list[StudyModel]:
    """Return the networks to compress, after training or exporting the missing ones.

    Args:
        sources: the images and weights; `imagenette` selects pretrained networks.
        bundled_only: whether to use the bundled model, if there is one, instead of reference
            models.
        workers: the number of training processes.
        progress: called after each model.

    Raises:
        QqonnxError: a package, images or weights are missing.
    """
    if sources.imagenette is not None:
        return _pretrained(sources.imagenette, sources.weights)
    if bundled_only:
        bundled = bundled_network(sources.checkout)
        return [bundled] if bundled else []
    jobs = [
        Measurement(_train, (name, sources.data), recipe.epochs) for name, recipe in RECIPES.items()
    ]
    # Not from the cache of results: the trained models have their own.
    run_jobs("training", jobs, workers=workers, fresh=True, progress=progress)
    return reference_models(reference_images(sources.data), list(RECIPES))


def _train(name: str, data: Path | None) -> None:
    reference_models(reference_images(data), [name])


def _pretrained(imagenette: Path, weights: str) -> list[StudyModel]:
    """Return torchvision's pretrained networks, exported into the cache."""
    from qqonnx.zoo import export

    held_out = next((imagenette / n for n in ("val", "test") if (imagenette / n).is_dir()), None)
    if held_out is None or not (imagenette / "train").is_dir():
        raise QqonnxError(f"{imagenette}: has no folders train and val")
    home = cache_folder("study") / "pretrained"
    home.mkdir(parents=True, exist_ok=True)
    models = []
    for name, recipe in RECIPES.items():
        source = weights
        if Path(weights).is_dir():
            files = [Path(weights) / f"{name}{suffix}" for suffix in (".pth", ".safetensors")]
            file = next((file for file in files if file.is_file()), None)
            if file is None:
                raise QqonnxError(f"{weights}: has neither {name}.pth nor {name}.safetensors")
            source = str(file)
        content = (Path(source),) if Path(source).is_file() else ()
        path = home / f"{name}-{digest_of(source, *content)}.onnx"
        if not path.exists():
            export(name, path, weights=source)
        models.append(
            StudyModel(name, recipe.label, path, held_out, imagenette / "train", imagenette.name)
        )
    return models

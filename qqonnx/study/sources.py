"""The networks of the study: where they and their images come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qqonnx.cache import cache_folder
from qqonnx.errors import QqonnxError
from qqonnx.study.data import ImageSet, digits, image_folder
from qqonnx.study.jobs import run_jobs
from qqonnx.study.models import StudyModel, digest_of, reference_models
from qqonnx.study.reference import IMAGE_SIZE, RECIPES
from qqonnx.study.small import bundled_network

Progress = Callable[[str, float, float], None]
"""Called with what is going on, the cost just done and the cost in all."""


@dataclass(frozen=True)
class Sources:
    """Where images and weights come from; by default everything is made here, offline.

    Attributes:
        data: image folder that reference models are trained on; None: scikit-learn's digits.
        mnist: folder of MNIST's files for the small network, or "download"; None: digits.
        imagenette: image folder (train and val) of ImageNet classes, for pretrained networks.
        weights: for these: torchvision's name of weights, or a folder with NAME.pth or
            NAME.safetensors.
        checkout: a source checkout, whose bundled model the quick run takes.
    """

    data: Path | None = None
    mnist: Path | None = None
    imagenette: Path | None = None
    weights: str = "DEFAULT"
    checkout: Path = Path(__file__).parents[2]


@dataclass(frozen=True)
class TrainingJob:
    """A reference model to be trained, unless the cache has it.

    Attributes:
        name: a key of `RECIPES`.
        data: image folder, or None for digits.
    """

    name: str
    data: Path | None

    @property
    def key(self) -> str:
        """A name; what is kept is the model's file, not this job's result."""
        return f"training {self.name} {self.data}"

    @property
    def cost(self) -> float:
        """Epochs: of some seconds each."""
        return RECIPES[self.name].epochs

    def run(self) -> dict[str, Any]:
        """Train; returns nothing of interest."""
        reference_models(reference_images(self.data), [self.name])
        return {}


def reference_images(data: Path | None) -> ImageSet:
    """Return the images that reference models are trained on."""
    return digits() if data is None else image_folder(data, IMAGE_SIZE)


def networks(
    sources: Sources, *, bundled_only: bool, workers: int, progress: Progress
) -> list[StudyModel]:
    """Return the networks to compress, training or exporting those that the cache lacks.

    Args:
        sources: pretrained networks if it has images for them, otherwise reference models.
        bundled_only: the bundled model instead of reference models, if there is a checkout.
        workers: processes to train in.
        progress: called after each model.

    Raises:
        QqonnxError: a package, images or weights are missing.
    """
    if sources.imagenette is not None:
        return _pretrained(sources.imagenette, sources.weights)
    if bundled_only:
        bundled = bundled_network(sources.checkout)
        return [bundled] if bundled else []
    jobs = [TrainingJob(name, sources.data) for name in RECIPES]
    total = sum(job.cost for job in jobs)
    progress("training", 0, total)
    # The cache keeps the models themselves: an unfinished run's are found again.
    run_jobs(
        jobs, workers=workers, fresh=True, progress=lambda cost: progress("training", cost, total)
    )
    return reference_models(reference_images(sources.data), list(RECIPES))


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
            found = next((file for file in files if file.is_file()), None)
            if found is None:
                raise QqonnxError(f"{weights}: has neither {name}.pth nor {name}.safetensors")
            source = str(found)
        content = (Path(source),) if Path(source).is_file() else ()
        path = home / f"{name}-{digest_of(source, *content)}.onnx"
        if not path.exists():
            export(name, path, weights=source)
        models.append(
            StudyModel(name, recipe.label, path, held_out, imagenette / "train", imagenette.name)
        )
    return models

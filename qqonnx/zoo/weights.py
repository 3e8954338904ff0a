"""State dicts, downloaded by torchvision or read from a local .pth or .safetensors file."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qqonnx.digests import file_digest
from qqonnx.errors import QqonnxError, first_line
from qqonnx.extras import import_extra

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

StateDict = Mapping[str, "Tensor"]

# Keys under which training scripts, such as torchvision's own, store a state dict.
_WRAPPERS = ("model", "state_dict")


def download(model: str, entry: Any) -> StateDict:
    """Return the weights `entry`, a member of a torchvision weights enum, downloaded or cached.

    Raises:
        QqonnxError: The download failed.
    """
    try:
        state: StateDict = entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        file = str(entry.url).rsplit("/", 1)[-1]
        raise QqonnxError(
            f"{model}: cannot download the weights {entry.name} ({file}): {reason}; "
            "give a local state dict with --weights PATH, or --weights none for random weights"
        ) from error
    return state


def is_copy_of(path: Path, url: str) -> bool:
    """Return whether the SHA-256 of the file starts with the digits in the file name of `url`."""
    digits = re.search(r"-([0-9a-f]{8,})\.", url.rsplit("/", 1)[-1])
    if digits is None:
        return False
    return file_digest(path).startswith(digits[1])


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a `.safetensors` file or a file that `torch.save` wrote.

    No code in the file is executed: pickles are read with `weights_only=True`.

    Raises:
        QqonnxError: The file cannot be read, contains no state dict, or a value is not finite.
    """
    try:
        loaded = _read(path)
    except OSError as error:
        raise QqonnxError(f"{path}: cannot read the weights: {error.strerror or error}") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    torch = import_extra("torch", "export")
    if not isinstance(loaded, Mapping) or not loaded:
        raise QqonnxError(f"{path}: not a state dict: contains a {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise QqonnxError(
                f"{path}: not a state dict: {name!r} is a {type(value).__name__}, not a tensor"
            )
        if not torch.isfinite(value).all():
            raise QqonnxError(f"{path}: {name!r} contains NaN or infinite values")
    # DataParallel adds this prefix to every name.
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        safetensors = import_extra("safetensors", "export")
        try:
            return import_extra("safetensors.torch", "export").load_file(path)
        except safetensors.SafetensorError as error:
            raise QqonnxError(f"{path}: not a safetensors file: {error}") from error
    torch = import_extra("torch", "export")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise QqonnxError(
            f"{path}: refused: contains more than tensors, or is not a PyTorch file; "
            "save the state dict alone with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # PyTorch raises errors of many types on damaged files
        raise QqonnxError(f"{path}: not a PyTorch state dict: {first_line(error)}") from error

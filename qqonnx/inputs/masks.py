"""Padding in the inputs of a run, as its mask tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def padding_mask(feed: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Return which positions of a run are not padding, bool [samples, positions].

    They are the ones of the input whose name has "mask" in it. None if there is no such input, or
    if it masks nothing or everything.
    """
    for name, values in feed.items():
        if "mask" not in name.lower() or values.ndim != 2 or not np.isin(values, (0, 1)).all():
            continue
        mask = values.astype(np.bool_)
        if mask.any() and not mask.all():
            return mask
    return None


def unpadded(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return the values [positions, 1, ...] that are not padding.

    Args:
        values: [samples, positions, ...]; of another shape, they come back as they are.
        mask: bool [samples, positions].
    """
    if mask is None or values.ndim < 3 or values.shape[:2] != mask.shape:
        return values
    return np.asarray(values[mask][:, None])

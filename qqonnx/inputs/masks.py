"""Masks of padded positions among the inputs of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def padding_mask(feed: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return which positions of a run are no padding: bool [samples, positions].

    The mask is the only input of two dimensions whose name contains "mask" and whose values are 0
    and 1, if it masks anything.
    """
    masks = [np.asarray(array) for name, array in feed.items() if "mask" in name.lower()]
    masks = [mask for mask in masks if mask.ndim == 2 and np.isin(mask, (0, 1)).all()]
    if len(masks) != 1 or masks[0].all() or not masks[0].any():
        return None
    return masks[0].astype(np.bool_)


def unpadded(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return the values [positions, ...] that are not padding.

    Args:
        values: [samples, positions, ...]; of another shape, they come back as they are.
        mask: bool [samples, positions].
    """
    if mask is None or values.ndim < 3 or values.shape[:2] != mask.shape:
        return values
    return np.asarray(values[mask])

"""Sizes of the axes of synthetic inputs, as far as a model leaves them open."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import onnx_ir as ir


def input_shapes(
    declared: Sequence[ir.Value], batch: int, size: int, states: Container[str] = ()
) -> dict[str, tuple[int, ...]]:
    """Return a shape for each input, by name.

    Axes of the same name have the same size. Open first axes are samples, and so are all axes with
    the name of the first of them. The others have the size `size`, so that lengths fit each other.
    A first axis whose name is also that of another input's inner axis is a length.

    Args:
        declared: the model's inputs; an input without a shape is a scalar.
        batch: number of samples.
        size: size of the other open axes.
        states: names of inputs whose open axes are samples: [layers, samples, features].
    """
    open_names = [_open_name(value, 0) for value in declared if value.shape]
    batch_name = next((name for name in open_names if name is not None), None)
    inner = {
        name
        for value in declared
        for axis in range(1, len(value.shape or ()))
        if (name := _open_name(value, axis))
    } - {batch_name}

    def axis_size(value: ir.Value, axis: int) -> int:
        name = _open_name(value, axis)
        if name is None:
            return _fixed_size(value, axis)
        if name:
            samples = name == batch_name or (axis == 0 and name not in inner)
            return batch if samples else size
        return size if axis and (value.name or "") not in states else batch

    return {
        value.name or "": tuple(axis_size(value, axis) for axis in range(len(value.shape or ())))
        for value in declared
    }


def has_open_axes(declared: Sequence[ir.Value]) -> bool:
    """Return whether an axis other than the first has no fixed size, or first axes differ."""
    inner = any(
        is_open(value, axis) for value in declared for axis in range(1, len(value.shape or ()))
    )
    return inner or len(declared) > 1


def is_open(value: ir.Value, axis: int) -> bool:
    """Return whether an axis of an input has no fixed size."""
    return _open_name(value, axis) is not None


def _open_name(value: ir.Value, axis: int) -> str | None:
    """Return the name of an open axis, "" for one without a name; None for a fixed size."""
    assert value.shape is not None
    dim = value.shape[axis]
    if isinstance(dim, int):
        # Exporters write 0 or -1 for sizes that they do not know.
        return None if dim > 0 else ""
    name = dim.value or ""
    return "" if name == "?" else name


def _fixed_size(value: ir.Value, axis: int) -> int:
    assert value.shape is not None
    dim = value.shape[axis]
    assert isinstance(dim, int)
    return dim

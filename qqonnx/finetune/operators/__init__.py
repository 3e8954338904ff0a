"""ONNX operators in PyTorch, with gradients: tables of functions by operator name.

An operator takes the attributes and the inputs of its node (None for an omitted input). It returns
one tensor, or a tuple of tensors if it has several outputs. Opset 13 and later are supported; where
a newer opset made an attribute an input, both forms are read. An operator raises
`NotImplementedError` for a mode that it does not support.

This package imports PyTorch; import it inside functions.
"""

from qqonnx.finetune.operators.elementwise import ELEMENTWISE
from qqonnx.finetune.operators.layers import LAYERS
from qqonnx.finetune.operators.operator import Operator, tensor_of
from qqonnx.finetune.operators.reductions import REDUCTIONS
from qqonnx.finetune.operators.resizing import RESIZING
from qqonnx.finetune.operators.shaping import SHAPING

OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **LAYERS, **REDUCTIONS, **RESIZING, **SHAPING}
"""All supported operators of the default domain by name."""

__all__ = ["OPERATORS", "Operator", "tensor_of"]

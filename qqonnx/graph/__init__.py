"""ONNX graphs: find weights, put decode nodes in their place, check, undo, load and save."""

"""An ONNX model as such: load, save, select weights, run in ONNX Runtime, compare outputs."""

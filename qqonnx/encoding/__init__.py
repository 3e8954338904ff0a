"""The stored form of a weight: encode, write as ONNX nodes, read back, verify."""

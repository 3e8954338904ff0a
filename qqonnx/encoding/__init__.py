"""The stored form of a weight: encode it, write it as ONNX nodes, read it back, verify it."""

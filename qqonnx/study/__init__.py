"""The study of quantile quantization: its figures, our numbers, and what of it holds up.

`qqonnx study` runs it (`run.py`); matplotlib, scikit-learn and PyTorch come with the extra
`qqonnx[study]`.
"""

"""The study of quantile quantization: the paper's figures and claims, measured again.

`qqonnx study` runs it, see `run.py`. The extra `qqonnx[study]` installs matplotlib, scikit-learn
and PyTorch.
"""

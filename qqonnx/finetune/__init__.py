"""Fine-tuning of levels, scales and biases; the modules that import PyTorch are here."""

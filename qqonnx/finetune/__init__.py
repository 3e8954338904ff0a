"""Fine-tuning of levels, scales and biases by distillation; it needs PyTorch."""

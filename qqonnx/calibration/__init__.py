"""Better codebooks from activations: statistics, error feedback, sensitivity, bit allocation."""

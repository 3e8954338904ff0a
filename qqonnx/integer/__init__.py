"""Integer execution: round activations, and multiply integer weights by them."""

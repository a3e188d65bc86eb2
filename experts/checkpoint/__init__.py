"""Hugging Face checkpoints: which tensors there are, where they lie, and reading them."""

# Reserved for kernels: Hugging Face publishes a distribution of the same name.
"""Tensor operations of a Mixture-of-Experts layer: a plain reference for each, faster forms beside it."""

__version__ = "0"

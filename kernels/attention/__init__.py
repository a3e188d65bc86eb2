"""Attention of single rows over a paged cache, and the fused attention that they share with prompts."""

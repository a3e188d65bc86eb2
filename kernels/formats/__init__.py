"""Matrices in the formats that checkpoints publish, and how they are decoded."""

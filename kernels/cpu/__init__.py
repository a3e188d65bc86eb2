"""The CPU path: oneDNN's products on weights packed once."""

"""How checkpoints write quantized matrices, a format a file."""

"""What a model takes and whether it fits, from its configuration and headers: sizes, memory, inspection. No Ray."""

"""Which format a configuration says that a checkpoint's matrices are in."""

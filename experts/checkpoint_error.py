"""The error of everything that is wrong with a checkpoint directory."""


class CheckpointError(ValueError):
    """One clear error that names the file and, where it is about one, the tensor or the key."""

"""The one error of everything that is wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be served: one line that names the file and, where there is one, the tensor."""

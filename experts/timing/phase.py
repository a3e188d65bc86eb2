"""The phases of a layer's call to a shard, in the order in which they follow each other. Imports nothing heavy."""

from enum import StrEnum


class Phase(StrEnum):
    """Its value is its name in metrics, reports and tables."""

    PACK = "pack"
    DISPATCH = "dispatch"
    QUEUE = "queue"
    COMPUTE = "compute"
    COMBINE = "combine"
    REDUCE = "reduce"

    @property
    def column(self) -> int:
        """Its place where a call's phases are kept as a row of numbers."""
        return PHASES.index(self)


PHASES = tuple(Phase)

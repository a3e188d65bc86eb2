"""What the registry reads of a process's entry."""

from typing import Protocol


class Entry(Protocol):
    """What is read of a process's entry in the registry."""

    @property
    def role(self) -> str:
        """shard, router or front."""

    @property
    def index(self) -> int:
        """Which shard it is."""

    @property
    def node(self) -> str:
        """Where it runs."""

    @property
    def replica(self) -> str:
        """Which process it is."""

    @property
    def state(self) -> str:
        """loading, ready, draining or drained."""

    @property
    def epoch(self) -> int:
        """Of the map that it goes by, 0 if none."""

    @property
    def prepared(self) -> int:
        """Of the coming map that it has prepared for, 0 if none."""

    @property
    def refused(self) -> tuple[int, str] | None:
        """Of a coming map that it cannot prepare for, and why."""

"""What of a list was delivered before, when another router delivers it from its start."""

from typing import TypeVar

Item = TypeVar("Item")


class DeliveredOnce:
    """A list that each router delivers from its start: what was delivered before is left out."""

    def __init__(self) -> None:
        self._delivered = 0
        self._repeated = 0

    def begin_again(self) -> None:
        """Another router begins at the start."""
        self._repeated = self._delivered

    def fresh(self, items: list[Item]) -> list[Item]:
        """Return those of the next `items` that were not delivered before."""
        skipped = min(self._repeated, len(items))
        self._repeated -= skipped
        self._delivered += len(items) - skipped
        return items[skipped:]

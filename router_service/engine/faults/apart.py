"""Finds which of several items makes work on all of them raise: halves, halves of these, down to the item alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def apart(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Result], failed: Callable[[Item, Exception], None]
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Do `work` on all items at once; where that raises, on halves. Yield what was done together, in order.

    One bad item of n costs about 2 log2(n) calls more, n bad ones 2 n - 1. Work that raises once and never again fails
    nothing, unless there is one item only.

    Args:
        work: may be repeated for an item until it returns.
        failed: called with an item for which it raises when it is alone.
    """
    left = [items] if items else []
    while left:
        part = left.pop()
        try:
            result = work(part)
        except Exception as error:
            if len(part) == 1:
                failed(part[0], error)
            else:
                middle = len(part) // 2
                left += [part[middle:], part[:middle]]
            continue
        yield part, result

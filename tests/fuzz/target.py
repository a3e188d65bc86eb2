"""What is fuzzed: one reader of untrusted bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Mutation = Callable[[Random, bytes], bytes]


@dataclass(frozen=True)
class Target:
    """A reader, and what it may do with wrong bytes.

    Args:
        name: for the command line.
        seeds: valid inputs, from which mutations start.
        check: reads an input; raises one of `errors`, which its documentation names, or AssertionError where what was
            read contradicts itself.
        weight: its share of the inputs, beside the other targets' weights.
        mutations: of its own, beside those of bytes.
    """

    name: str
    seeds: tuple[bytes, ...]
    check: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    weight: int = 1
    mutations: tuple[Mutation, ...] = ()

    def fault(self, data: bytes) -> Exception | None:
        """Read `data`; return the exception if it is none of the documented ones."""
        try:
            self.check(data)
        except self.errors:
            return None
        except Exception as error:
            return error
        return None

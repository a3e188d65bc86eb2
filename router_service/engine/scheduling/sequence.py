"""A request as the scheduler sees it, and its share of a step."""

from dataclasses import dataclass, field

# Stands in a block table for a block that has been given back: no layer of the group reads it again.
GIVEN_BACK = -1


@dataclass(slots=True)
class Sequence:
    """A request's `tokens` so far, how many of them are in the cache (`computed`), and how many there may be.

    `arrival` numbers the sequences in the order of their submission; the newest is preempted first. `tables` has a
    block table per cache group; entry i is the block of the i-th `block_size` tokens. `digests` are the chained hashes
    of its full blocks, as far as they were needed. `salt` separates callers that may not share cached beginnings.
    `reusable` is how many tokens may be found in the cache rather than computed; None for any number. `cached` is how
    many were found when it was first admitted, None before that. `decoding` is set once it has drawn a token since its
    last admission. `tainted` is its first position whose keys and values are not the whole model's, None if all are.
    """

    key: int
    tokens: list[int]
    max_length: int
    salt: bytes = b""
    caller: str = ""
    priority: int = 0
    reusable: int | None = None
    arrival: int = 0
    computed: int = 0
    tainted: int | None = None
    cached: int | None = None
    decoding: bool = False
    stalled: bool = False
    tables: tuple[list[int], ...] = ()
    digests: list[bytes] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`token_ids` at positions from `start` on, of the sequence `key` with one block table per cache group.

    `wants_logits` says whether these are the last of its tokens, so that the next one is drawn. `decoding` is False for
    tokens of a prompt, and for those that are computed again after a preemption.
    """

    key: int
    token_ids: list[int]
    start: int
    block_tables: tuple[list[int], ...]
    wants_logits: bool = True
    decoding: bool = False

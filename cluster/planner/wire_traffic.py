"""What a token costs on the wire between router and shards. Pure functions.

E experts, K experts per token, S shards.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import comb

# What `experts.transport.call` packs: int32 row, int32 expert and float32 weight an assignment; what comes back is in
# float32.
ASSIGNMENT_BYTES = 12
ANSWER_ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class LayerTraffic:
    """One token's all-to-all bytes in one MoE layer, without the messages' heads, which a whole step shares.

    `exact_combine_bytes` come back in place of `combine_bytes` with `experts.exact_combine`.
    """

    shards_asked: float
    dispatch_bytes: float
    combine_bytes: float
    exact_combine_bytes: float


def expected_shards_asked(top_k: int, held: tuple[int, ...]) -> Fraction:
    """How many shards a token asks on average where each set of K experts is equally likely.

    Args:
        held: experts of each shard; they sum to E.
    """
    experts = sum(held)
    # The complement: a shard gets no call if all K are among the others' experts.
    return sum((1 - Fraction(comb(experts - n, top_k), comb(experts, top_k)) for n in held), Fraction(0))


def most_shards_asked(top_k: int, held: tuple[int, ...]) -> int:
    """The most shards that one token can ask."""
    return min(top_k, len(held))


def layer_traffic(hidden: int, itemsize: int, top_k: int, shards_asked: float) -> LayerTraffic:
    """Bytes of a token that asks so many shards: a row to each, K assignments in all; a row back from each, or K."""
    row = hidden * ANSWER_ITEM_BYTES
    dispatch = shards_asked * hidden * itemsize + ASSIGNMENT_BYTES * top_k
    return LayerTraffic(shards_asked, dispatch, shards_asked * row, top_k * row)
